"""events -> user_sequences, training_examples and the vocabularies' new rows, for one as_of.

Where an earlier as_of is there to go on from, only the users with new events get a row, and only new events are read. Everybody is
rebuilt where there is none, where the streams of the conf changed, or where events from before it were ingested since it was built
(a backfill: run `build_sequences --from DAY --to DAY` over the days it touches instead, which is cheaper).
"""

from __future__ import annotations

from dataclasses import asdict

from alure_spark.attribution import sentences
from alure_spark.clock import format_time
from alure_spark.events.previous import previous_sequences
from alure_spark.events.sequence_tables import example_metrics, write_examples, write_sequences, write_vocabularies
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report


def build(context: Context, run: JobRun) -> Report:
    config, as_of = context.config, context.config.time.as_of_ms
    events = run.read("events")
    previous = previous_sequences(context.lake, as_of - 1, config.sequence_digest())
    users, heavy = write_sequences(run, config, events, previous.since)
    examples = write_examples(run, config, events, previous.since, heavy)
    metrics: dict[str, float | None] = {"users": users, "rebuilt": float(previous.since is None)}
    metrics |= {"users_too_heavy_to_train": len(examples.too_heavy)} | example_metrics(run, config)
    metrics["vocabulary_rows"] = write_vocabularies(run, config, events, previous)
    run.facts |= {"sequence_digest": config.sequence_digest(), "vocabulary_digest": config.vocabulary_digest()}
    metrics |= {f"responses.{label}.{what}": float(n) for label, one in examples.responses.items() for what, n in asdict(one).items()}
    reads = "all events" if examples.start is None else f"the events since {format_time(examples.start)}"
    how = f"{format_time(as_of)}: {users:,} users, {previous.why}; training_examples from {reads}"
    return Report(metrics, texts={"how.txt": how, "responses.txt": "\n".join(sentences(examples.responses, config.labels))})


JOB = Job(
    "build_sequences",
    "each user's events before as_of as parallel arrays, and the labelled impressions",
    ("events", "vocabularies"),
    ("user_sequences", "training_examples", "vocabularies"),
    lambda config: as_of_scope(config.time.as_of_ms),
    build,
)

if __name__ == "__main__":
    JOB.main()

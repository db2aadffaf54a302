"""events -> user_sequences, training_examples and the vocabularies' new rows, for one as_of.

Where an earlier as_of is there to go on from, only the users with new events get a row. Everybody is rebuilt where there is none,
where the streams of the conf changed, or where events from before it were ingested since it was built (a backfill: run
`build_sequences --from DAY --to DAY` over the days it touches instead, which is cheaper).
"""

from __future__ import annotations

from pyspark.sql import functions as F

from alure_spark.config import format_time, parse_time
from alure_spark.errors import DataError
from alure_spark.events import examples, sequences, vocabularies
from alure_spark.lake import JobRun, Lake, as_of_scope, timestamp
from jobs.command import Context, Job, Report


def build(context: Context, run: JobRun) -> Report:
    config = context.config
    as_of = config.time.as_of_ms
    events = run.read("events")
    scope = as_of_scope(as_of)
    since, why = _previous(context.lake, as_of, config.sequence_digest())
    if since is None:
        rows = sequences.user_sequences(events, config.streams, as_of)
    else:
        rows = sequences.touched_sequences(events, run.read("user_sequences"), config.streams, since, as_of)
    users = run.write("user_sequences", rows, scope)
    if not users and since is None:
        first, last = events.selectExpr("min(known_at)", "max(known_at)").collect()[0]
        raise DataError(f"no event was known before time.as_of={config.time.as_of}: events are known from {first} to {last}")
    run.facts["sequence_digest"] = config.sequence_digest()
    labelled = examples.training_examples(events, config.streams, config.labels, as_of, config.impression_attributes)
    run.write("training_examples", labelled, scope)
    metrics: dict[str, float | None] = {"users": users, "rebuilt": float(since is None)}
    totals = context.lake.read("training_examples", run.outputs["training_examples"]).where(scope).selectExpr(
        "count_if(size(impression_id) > 0) AS users_with_impressions",
        "sum(size(impression_id)) AS impressions",
        "sum(aggregate(click, 0, (a, x) -> a + x)) AS clicks",
        "sum(aggregate(conversion, 0, (a, x) -> a + x)) AS conversions",
    ).first()  # fmt: skip
    assert totals is not None
    metrics |= {key: None if value is None else float(value) for key, value in totals.asDict().items()}
    known = run.read("vocabularies") if "vocabularies" in context.lake.published_versions() else None
    categorical = [name for name, kind in config.attribute_kinds().items() if kind == "categorical"]
    added = vocabularies.new_vocabulary_rows(events, known, categorical, as_of, config.vocabulary)
    run.write("vocabularies", added, scope=scope.replace("as_of", "first_seen"), append=True)
    metrics["vocabulary_rows"] = context.lake.read("vocabularies", run.outputs["vocabularies"]).count()
    return Report(metrics, texts={"how.txt": f"{format_time(as_of)}: {users:,} users, {why}"})


def _previous(lake: Lake, as_of_ms: int, digest: str) -> tuple[int | None, str]:
    """The as_of to go on from, epoch ms, or None with the reason why everybody is rebuilt."""
    if "user_sequences" not in lake.published_versions():
        return None, "all of them: there are no earlier sequences"
    earlier = lake.read("user_sequences").where(F.col("as_of") < timestamp(as_of_ms)).agg(F.unix_millis(F.max("as_of"))).collect()[0][0]
    if earlier is None:
        return None, "all of them: there are no earlier sequences"
    published = lake.runs().where("status = 'published'").orderBy(F.desc("finished"))
    built = published.where((F.col("job") == "build_sequences") & (F.col("scope") == as_of_scope(earlier))).first()
    if built is None or (built["facts"] or {}).get("sequence_digest") != digest:
        return None, f"all of them: the streams of the conf are others than at {format_time(earlier)}"
    for ingestion in published.where(
        (F.col("job") == "ingest_events") & (F.col("outputs")["events"] > built["inputs"]["events"])
    ).collect():
        known_from = (ingestion["facts"] or {}).get("known_from")
        if known_from is None or parse_time(known_from) < earlier:
            what = "the whole log" if known_from is None else f"events known from {known_from} on"
            return None, f"all of them: {what} came in after the sequences of {format_time(earlier)} were built"
    return earlier, f"those with events since {format_time(earlier)}"


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

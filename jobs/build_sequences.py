"""events -> user_sequences, training_examples and the vocabularies' new rows, for one as_of."""

from __future__ import annotations

from alure_spark.errors import DataError
from alure_spark.events import sequences
from alure_spark.lake import JobRun, as_of_scope
from jobs.command import Context, Job, Report


def build(context: Context, run: JobRun) -> Report:
    config = context.config
    as_of = config.time.as_of_ms
    events = run.read("events")
    scope = as_of_scope(as_of)
    users = run.write("user_sequences", sequences.user_sequences(events, config.streams, as_of), scope)
    if not users:
        first, last = events.selectExpr("min(known_at)", "max(known_at)").collect()[0]
        raise DataError(f"no event was known before time.as_of={config.time.as_of}: events are known from {first} to {last}")
    examples = sequences.training_examples(events, config.streams, config.labels, as_of, config.impression_attributes)
    run.write("training_examples", examples, scope)
    metrics: dict[str, float | None] = {"users": users}
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
    added = sequences.new_vocabulary_rows(events, known, categorical, as_of)
    run.write("vocabularies", added, scope=scope.replace("as_of", "first_seen"), append=True)
    metrics["vocabulary_rows"] = context.lake.read("vocabularies", run.outputs["vocabularies"]).count()
    return Report(metrics)


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

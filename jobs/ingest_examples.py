"""A mapped table of labelled impressions -> impression_examples, for teams that want the ranking model alone; refused rows -> quarantine.

The whole table replaces the one before. Users that were forgotten stay out; user ids are hashed where ingest.hash_user_ids says so.
"""

from __future__ import annotations

from pyspark.sql import functions as F

from alure_spark import sources
from alure_spark.errors import ConfigError, DataError
from alure_spark.events import loads
from alure_spark.events.mapped_impressions import SOURCE, accepted_examples, columns_of, refused_examples, validate_examples
from alure_spark.lake import JobRun
from alure_spark.running import Context, Job, Report


def ingest(context: Context, run: JobRun) -> Report:
    config = context.config
    if not config.ranking.ready_made:
        raise ConfigError("ranking.fields reads no example.COLUMN: there is no table of impressions to take")
    with sources.failures_named(context.spark, config.source):
        given = sources.read_examples(context.spark, config.source, columns_of(config.ranking))
        named, user_ids = loads.with_lake_ids(context.lake, config, given)
        validated = validate_examples(named, config.ranking).persist()
        per_reason = loads.count_reasons(refused_examples(validated))
        rows = run.write("impression_examples", accepted_examples(validated, config.ranking))
    told = "\n".join(loads.sentences(per_reason))
    if not rows:
        raise DataError(f"no row of source.options.examples is acceptable: {told or 'the table is empty'}")
    refused = refused_examples(validated).dropDuplicates().withColumn("run_id", F.lit(run.run_id))
    run.write("quarantine", refused, scope=f"source = '{SOURCE}'")
    run.facts["user_ids"] = user_ids
    validated.unpersist()
    counts = {"rows": float(rows), "refused": float(sum(row["count"] for row in per_reason))}
    return Report(dict(counts), texts={"ingest_examples/quarantine.txt": told} if told else {})


JOB = Job(
    "ingest_examples",
    "a ready-made table of labelled impressions, cleaned",
    (),
    ("impression_examples", "quarantine"),
    lambda config: "true",
    ingest,
)

if __name__ == "__main__":
    JOB.main()

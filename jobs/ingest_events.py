"""Source adapter -> events, ads, follows; refused rows -> quarantine. Replaces the whole tables."""

from __future__ import annotations

import time

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark import sources
from alure_spark.config import parse_time
from alure_spark.errors import DataError
from alure_spark.events import clean
from alure_spark.lake import JobRun
from alure_spark.tables import ADS, FOLLOWS
from jobs.command import Context, Job, Report


def ingest(context: Context, run: JobRun) -> Report:
    config, spark = context.config, context.spark
    given = sources.read(spark, config.source)
    not_after = parse_time(config.time.not_after) if config.time.not_after else int(time.time() * 1000)
    judged = {
        "events": clean.judge_events(
            given.events, list(config.streams), config.attribute_kinds(), parse_time(config.time.not_before), not_after
        ),
        "ads": clean.judge_ads(given.ads if given.ads is not None else _none(context, ADS.ddl(), "ad_hash")),
        "follows": clean.judge_follows(given.follows if given.follows is not None else _none(context, FOLLOWS.ddl())),
    }
    frames = {name: frame.persist() for name, frame in judged.items()}
    refused = clean.refused(frames["events"]).union(clean.refused(frames["ads"])).union(clean.refused(frames["follows"]))
    metrics: dict[str, float | None] = {"refused": refused.count(), "events_read": frames["events"].count()}
    # One task per day, so that a day is few files.
    metrics["events"] = run.write("events", clean.accepted(frames["events"]).repartition("known_date"))
    if not metrics["events"]:
        why = refused.groupBy("reason").count().orderBy(F.desc("count"), "reason").limit(3).collect()
        reasons = "; ".join(f"{row['reason']} ({row['count']})" for row in why) or "the source is empty"
        raise DataError(f"source {config.source.kind} gave no acceptable event of {metrics['events_read']:.0f}: {reasons}")
    for name in ("ads", "follows"):
        metrics[name] = run.write(name, clean.accepted(frames[name]))
    run.write("quarantine", refused.withColumn("run_id", F.lit(run.run_id)), scope="source <> 'user_embeddings'")
    per_reason = refused.groupBy("source", "reason").count().orderBy("source", "reason").collect()
    for frame in frames.values():
        frame.unpersist()
    texts = (
        {"quarantine.txt": "\n".join(f"refused {row['count']:,} {row['source']}: {row['reason']}" for row in per_reason)}
        if per_reason
        else {}
    )
    return Report(metrics, texts=texts)


def _none(context: Context, ddl: str, *derived: str) -> DataFrame:
    return context.spark.createDataFrame([], ddl).drop(*derived)


JOB = Job(
    "ingest_events",
    "clean the source's rows into events, ads and follows",
    (),
    ("events", "ads", "follows", "quarantine"),
    lambda config: "true",
    ingest,
)

if __name__ == "__main__":
    JOB.main()

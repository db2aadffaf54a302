"""Refused events are judged once more, under today's conf: what is accepted now joins `events`, the rest stays in `quarantine`.

For rows that the rules refused (an undeclared stream, a bound on lateness or time). Where the mapping read a column wrongly the row
in quarantine is already wrong: mend the mapping and run ingest_events over those days again, which changes nothing else; a replay
then takes the rows away that `events` holds by now. Refused ads and follows are not replayed: every ingestion replaces them whole.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark import sources
from alure_spark.events import batches, clean
from alure_spark.lake import JobRun
from alure_spark.privacy.tombstones import lake_key
from alure_spark.running import Context, Job, Report
from jobs.ingest_events import add, judge

EVENTS_ONLY = "source LIKE 'events/%'"


def replay(context: Context, run: JobRun) -> Report:
    lake_key(context.lake, context.config.ingest.hash_user_ids)  # refuses another key than that of the rows
    quarantined = run.read("quarantine").where(EVENTS_ONLY).persist()
    again = quarantined.where(~batches.is_broken())
    rows = batches.from_quarantine(again, _shape(context), context.config.attribute_kinds())
    judged = judge(context, rows, run.read("events")).persist()
    known = judged.where("reason IS NULL").selectExpr("unix_millis(min(known_at))", "unix_millis(max(known_at))").collect()[0]
    metrics: dict[str, float | None] = {"quarantined": quarantined.count(), "accepted": 0.0}
    refused = clean.refused(judged).union(quarantined.where(batches.is_broken()).select("source", "reason", "row"))
    if known[0] is not None:
        metrics["accepted"], more = add(context, run, judged, (known[0], known[1] + 1))
        refused = refused.union(more)
    kept = refused.dropDuplicates(["source", "reason", "row"]).withColumn("run_id", F.lit(run.run_id))
    metrics["refused"] = run.write("quarantine", kept, scope=EVENTS_ONLY)
    for frame in (quarantined, judged):
        frame.unpersist()
    said = (
        f"{metrics['quarantined']:,.0f} rows were in quarantine: {metrics['accepted']:,.0f} joined events, {metrics['refused']:,.0f} stay"
    )
    return Report(metrics, texts={"replayed.txt": f"{said}{_from(run)}"})


def _shape(context: Context) -> DataFrame:
    """The events as the source hands them over, of which only the columns and types are asked for."""
    return sources.read(context.spark, context.config.source, attributes=context.config.attribute_kinds()).events


def _from(run: JobRun) -> str:
    return (
        f"; events known from {run.facts['known_from']} on are new: run build_sequences from that day on"
        if "known_from" in run.facts
        else ""
    )


JOB = Job(
    "replay_quarantine",
    "judge refused events again under today's conf",
    ("quarantine", "events"),
    ("events", "quarantine"),
    lambda config: EVENTS_ONLY,
    replay,
)

if __name__ == "__main__":
    JOB.main()

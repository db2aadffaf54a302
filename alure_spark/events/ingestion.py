"""Writes a load into `events`, `ads`, `follows`, `users` and `quarantine`, and lets refused events try again.

Enters: a load with its verdicts (loads.py), a run of the lake. Leaves: the published rows, what later loads must know among the facts of
the run, and metrics and texts for MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import DAY_MS, format_time
from ..config import Config, IngestConfig
from ..errors import DataError
from ..lake import JobRun, timestamp
from . import batches, clean, preflight
from .loads import Batch, Load, count_reasons, last_profile, remarks, sentences, validated_events

REPLAYED = "source LIKE 'events/%'"  # the rows of quarantine that are events
OF_LOADS = "source NOT IN ('user_embeddings', 'examples')"  # and those that come from here
Metrics = dict[str, float | None]


def write_load(run: JobRun, config: Config, load: Load, force: bool) -> tuple[Metrics, dict[str, str]]:
    """Metrics, and texts by file name.

    Raises DataError where the load is off against the last one, or empty, and is not forced; and where a whole load has no event.
    """
    for frame in load.frames:
        frame.persist()
    found = preflight.profile(load.events)
    told = _require_alike(run, config.ingest, load, found, force)
    run.facts["load"] = load.kind
    run.facts["user_ids"] = load.user_ids
    run.facts["profile"] = json.dumps({source: one.as_dict() for source, one in found.items()})
    refused = load.refused
    metrics: Metrics = {"events_read": sum(one.rows for one in found.values())}
    metrics["where_is_null"] = sum(table.unknown for table in load.tables)
    metrics["empty_tables"] = sum(bool(table.empty) for table in load.tables)
    metrics["dwell_outliers"] = sum(one.dwell_outliers for one in found.values())
    metrics["nulled"] = sum(count for one in found.values() for count in one.nulled.values())
    published = run.lake.published_versions()
    if load.batch is not None and "events" in published:
        metrics["events"], more = add_batch(run, load.events, load.batch, config.ingest)
        refused = refused.union(more)
    else:
        # One task per day, so that a day is few files.
        metrics["events"] = run.write("events", clean.accepted(load.events).repartition("known_date"))
        if not metrics["events"]:
            why = refused.groupBy("reason").count().orderBy(F.desc("count"), "reason").limit(3).collect()
            most = "; ".join(f"{row['reason']} ({row['count']})" for row in why) or "the source is empty"
            raise DataError(f"source {config.source.kind} gave no acceptable event of {metrics['events_read']:.0f}: {most}")
        if load.batch is not None:
            run.facts["known_from"] = format_time(load.batch[0])
    whole = {"ads": load.ads, "follows": load.follows} | ({} if load.users is None else {"users": load.users})
    for name, frame in whole.items():
        metrics[name] = run.write(name, clean.accepted(frame))
    per_reason = count_reasons(refused)
    metrics["refused"] = sum(row["count"] for row in per_reason)
    rows = refused.withColumn("run_id", F.lit(run.run_id))
    if load.batch is not None and "quarantine" in published:
        run.write("quarantine", batches.of_quarantine(rows, run.read("quarantine")), scope=OF_LOADS, append=True)
    else:
        run.write("quarantine", rows, scope=OF_LOADS)
    for frame in load.frames:
        frame.unpersist()
    texts = {"load.txt": told, "quarantine.txt": sentences(per_reason)}
    return metrics, {name: "\n".join(lines) for name, lines in texts.items() if lines}


def _require_alike(run: JobRun, ingest: IngestConfig, load: Load, found: Mapping[str, preflight.SourceProfile], force: bool) -> list[str]:
    """Sentences on what is worth a look. Raises DataError where the load is off and not forced."""
    off, empty = (
        preflight.what_is_off(found, last_profile(run.lake, load.kind), ingest),
        preflight.what_is_empty(load.tables, found, load.batch),
    )
    refused_for = [*off, *(empty if ingest.refuse_empty else [])]
    if refused_for and not force:
        always = "; with ingest.refuse_empty: false a load may have empty tables" if ingest.refuse_empty and empty else ""
        raise DataError(
            f"nothing was written, because this load is off: {'; '.join(refused_for)}. Look at --dry-run; --force takes it as it is{always}"
        )
    return [*empty, *remarks(load)]


def add_batch(run: JobRun, validated: DataFrame, batch: Batch, ingest: IngestConfig) -> tuple[int, DataFrame]:
    """Write what the batch changes, whole days at a time; (new events, further refused rows). validated: events with verdicts."""
    events = run.read("events")
    accepted = clean.accepted(validated)
    near = events
    if ingest.late_days:  # two deliveries of an event are known at most so far apart, but an id may be given twice
        reach = round(ingest.late_days * DAY_MS)
        low, high = (F.to_date(timestamp(moment)) for moment in (batch[0] - reach, batch[1] + reach))
        near = batches.rows_of_near_days(events, accepted, low, high)
    change = batches.merge(near, accepted, ingest)
    added, displaced = change.added.persist(), change.displaced.persist()
    per_day = added.groupBy("known_date").agg(F.count("*").alias("rows"), F.unix_millis(F.min("known_at")).alias("first")).collect()
    new = sum(day["rows"] for day in per_day)
    if new:
        days = sorted({row["known_date"] for row in (*per_day, *displaced.select("known_date").distinct().collect())})
        in_days = F.col("known_date").isin(days)
        kept = events.where(in_days).join(displaced.select("event_id"), "event_id", "left_anti")
        scope = f"known_date IN ({', '.join(f'DATE{str(day)!r}' for day in days)})"
        run.write("events", kept.unionByName(added, allowMissingColumns=True).repartition("known_date"), scope)
        run.facts["known_from"] = format_time(min(day["first"] for day in per_day))
    for frame in (added, displaced):
        frame.unpersist()
    return new, change.refused


def replay(run: JobRun, config: Config, quarantined: DataFrame, shape: DataFrame) -> Metrics:
    """Refused events are validated once more: what is accepted now joins `events`, the rest stays in `quarantine`.

    quarantined: rows of `quarantine` that are REPLAYED, persisted; it is unpersisted here. shape: the events as the source hands them
    over, of which only the columns and types are asked for.
    """
    again = quarantined.where(~batches.is_broken())
    rows = batches.from_quarantine(again, shape, config.attribute_kinds())
    validated = validated_events(run.lake, config, rows, run.read("events")).persist()
    known = validated.where("reason IS NULL").selectExpr("unix_millis(min(known_at))", "unix_millis(max(known_at))").collect()[0]
    metrics: Metrics = {"quarantined": quarantined.count(), "accepted": 0.0}
    refused = clean.refused(validated).union(quarantined.where(batches.is_broken()).select("source", "reason", "row"))
    if known[0] is not None:
        metrics["accepted"], more = add_batch(run, validated, (known[0], known[1] + 1), config.ingest)
        refused = refused.union(more)
    kept = refused.dropDuplicates(["source", "reason", "row"]).withColumn("run_id", F.lit(run.run_id))
    metrics["refused"] = run.write("quarantine", kept, scope=REPLAYED)
    for frame in (quarantined, validated):
        frame.unpersist()
    return metrics

"""Source adapter -> events, ads, follows; refused rows -> quarantine.

The whole log replaces the tables; with `ingest.batch_days` a run takes what became known in the days before time.as_of and adds it:
`ingest_events --from DAY --to DAY` does so day by day, also for a day that was missed. A batch that comes twice changes nothing.
`--dry-run` says what the load looks like; a load that is off against the last one, or that has an empty table, is refused unless
`--force`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from alure_spark import sources
from alure_spark.canonical import quoted
from alure_spark.clock import DAY_MS, EARLIEST_MS, format_time, parse_time
from alure_spark.config import Config
from alure_spark.errors import DataError
from alure_spark.events import batches, clean, preflight, reasons
from alure_spark.events.dwell import MINUTE_MS
from alure_spark.lake import JobRun, timestamp
from alure_spark.privacy import identity
from alure_spark.privacy.tombstones import lake_key, without_forgotten
from alure_spark.running import Context, Job, Report
from alure_spark.tables import ADS, FOLLOWS

FAR_MS = 366 * DAY_MS  # so far in the future a time is none that a later batch may bring


def ingest(context: Context, run: JobRun) -> Report:
    batch = _batch(context)
    with sources.failures_named(context.spark, context.config.source, _read_batch(context, batch)):
        return _ingest(context, run, batch)


def _ingest(context: Context, run: JobRun, batch: tuple[int, int] | None) -> Report:
    config = context.config
    judged = _judged(context, batch)
    for frame in (judged.events, judged.ads, judged.follows):
        frame.persist()
    found = preflight.profile(judged.events)
    off, empty = preflight.what_is_off(found, _last_profile(context), config.ingest), preflight.what_is_empty(judged.tables, found, batch)
    told = [*empty, *(remark for table in judged.tables for remark in table.remarks)]
    refused_for = [*off, *(empty if config.ingest.refuse_empty else [])]
    if refused_for and not context.force:
        always = "; with ingest.refuse_empty: false a load may have empty tables" if config.ingest.refuse_empty and empty else ""
        raise DataError(
            f"nothing was written, because this load is off: {'; '.join(refused_for)}. Look at --dry-run; --force takes it as it is{always}"
        )
    run.facts["load"] = _kind(batch)
    run.facts["user_ids"] = judged.user_ids
    run.facts["profile"] = json.dumps({source: one.as_dict() for source, one in found.items()})
    refused = judged.refused
    metrics: dict[str, float | None] = {"events_read": sum(one.rows for one in found.values())}
    metrics["where_is_null"] = sum(table.unknown for table in judged.tables)
    metrics["empty_tables"] = sum(bool(table.empty) for table in judged.tables)
    metrics["dwell_outliers"] = sum(one.dwell_outliers for one in found.values())
    metrics["nulled"] = sum(count for one in found.values() for count in one.nulled.values())
    if batch is not None and "events" in context.lake.published_versions():
        metrics["events"], more = add(context, run, judged.events, batch)
        refused = refused.union(more)
    else:
        # One task per day, so that a day is few files.
        metrics["events"] = run.write("events", clean.accepted(judged.events).repartition("known_date"))
        if not metrics["events"]:
            why = refused.groupBy("reason").count().orderBy(F.desc("count"), "reason").limit(3).collect()
            reasons = "; ".join(f"{row['reason']} ({row['count']})" for row in why) or "the source is empty"
            raise DataError(f"source {context.config.source.kind} gave no acceptable event of {metrics['events_read']:.0f}: {reasons}")
        if batch is not None:
            run.facts["known_from"] = format_time(batch[0])
    for name, frame in (("ads", judged.ads), ("follows", judged.follows)):
        metrics[name] = run.write(name, clean.accepted(frame))
    per_reason = _per_reason(refused)
    metrics["refused"] = sum(row["count"] for row in per_reason)
    rows = refused.withColumn("run_id", F.lit(run.run_id))
    if batch is not None and "quarantine" in context.lake.published_versions():
        run.write("quarantine", batches.of_quarantine(rows, run.read("quarantine")), scope="source <> 'user_embeddings'", append=True)
    else:
        run.write("quarantine", rows, scope="source <> 'user_embeddings'")
    for frame in (judged.events, judged.ads, judged.follows):
        frame.unpersist()
    texts = {"load.txt": told, "quarantine.txt": _sentences(per_reason)}
    return Report(metrics, texts={name: "\n".join(lines) for name, lines in texts.items() if lines})


def _refused(source: str, reason: str, rows: int) -> str:
    known = reasons.reason_of(reason)
    return f"refused {rows:,} {source}: {reason}" + (f". {known.remedy}" if known else "")


@dataclass(frozen=True)
class _Judged:
    events: DataFrame
    ads: DataFrame
    follows: DataFrame
    tables: list[preflight.TableCounts]
    user_ids: str  # how they are written: identity.ids_are

    @property
    def refused(self) -> DataFrame:
        """Rows of QUARANTINE, without run_id."""
        return clean.refused(self.events).union(clean.refused(self.ads)).union(clean.refused(self.follows))


def _per_reason(refused: DataFrame) -> list[Row]:
    return refused.groupBy("source", "reason").count().orderBy("source", "reason").collect()


def _sentences(per_reason: list[Row]) -> list[str]:
    return [_refused(row["source"], row["reason"], row["count"]) for row in per_reason]


def _batch(context: Context) -> tuple[int, int] | None:
    """[from, to) in epoch ms of known_at, or None for the whole log."""
    days, end = context.config.ingest.batch_days, context.config.time
    return (max(end.as_of_ms - round(days * DAY_MS), EARLIEST_MS), end.as_of_ms) if days else None


def _read_batch(context: Context, batch: tuple[int, int] | None) -> tuple[int, int] | None:
    """The batch and what must be read before it, so that an event before it finds its next one."""
    ingest = context.config.ingest
    return batch and (batch[0] - (round(ingest.session_gap_minutes * MINUTE_MS) if ingest.dwell_from_next else 0), batch[1])


def plan(context: Context) -> str:
    """What --dry-run says: the load as it would be validated, and what would be refused, by reason."""
    config, batch = context.config, _batch(context)
    with sources.failures_named(context.spark, config.source, _read_batch(context, batch)):
        judged = _judged(context, batch)
        judged.events.persist()
        found = preflight.profile(judged.events)
        per_reason = _per_reason(judged.refused)
    off = [
        *preflight.what_is_off(found, _last_profile(context), config.ingest),
        *preflight.what_is_empty(judged.tables, found, batch),
        *(remark for table in judged.tables for remark in table.remarks),
    ]
    lines = [*preflight.describe(found, config.streams), *_sentences(per_reason), *preflight.heavy_hitters(judged.events)]
    lines += [f"off: {sentence}" for sentence in off]
    judged.events.unpersist()
    return "\n".join(f"  {line}" for line in lines)


def _last_profile(context: Context) -> dict[str, dict[str, object]]:
    """The profile of the last published load of the same kind (whole or batch); empty without one."""
    if not context.lake.published_versions():
        return {}
    runs = context.lake.runs().where("job = 'ingest_events' AND status = 'published'").orderBy(F.desc("finished")).limit(50)
    for row in runs.select("facts").collect():
        facts = row["facts"] or {}
        if facts.get("load") == _kind(_batch(context)):
            return dict(json.loads(facts["profile"]))
    return {}


def _kind(batch: tuple[int, int] | None) -> str:
    return "whole" if batch is None else "batch"


def _judged(context: Context, batch: tuple[int, int] | None) -> _Judged:
    """The source's rows with the verdicts; of events those of the batch (and those whose time cannot be read)."""
    config, spark = context.config, context.spark
    given = sources.read(spark, config.source, _read_batch(context, batch), config.attribute_kinds())
    key = lake_key(context.lake, config.ingest.hash_user_ids)

    def pseudonyms(frame: DataFrame, *names: str) -> DataFrame:
        if not config.ingest.hash_user_ids:
            return frame
        return frame.select(
            *(identity.keyed_hash(quoted(name), key).alias(name) if name in names else quoted(name) for name in frame.columns)
        )

    events = judge(context, pseudonyms(given.events, "user_id"))
    if batch is not None:
        known = F.unix_millis("known_at")
        never = (known < parse_time(config.time.not_before)) | (known >= _not_after_ms(config) + FAR_MS)  # no batch will ask for it
        events = events.where(known.isNull() | never | ((known >= batch[0]) & (known < batch[1])))
    ads = given.ads if given.ads is not None else _none(context, ADS.ddl(), "ad_hash")
    ends = ("src_user_id", "dst_user_id")
    follows = given.follows if given.follows is not None else _none(context, FOLLOWS.ddl())
    follows = without_forgotten(context.lake, pseudonyms(follows, *ends), *ends)
    ids = identity.ids_are(config.ingest.hash_user_ids, key)
    follows = clean.judge_follows(follows, _not_after_ms(config))
    return _Judged(events, clean.judge_ads(ads), follows, preflight.count_tables(given.tables), ids)


def judge(context: Context, events: DataFrame, others: DataFrame | None = None) -> DataFrame:
    """The verdicts of `clean.judge_events` under the conf, on events whose user ids are those of the lake; forgotten users are left out."""
    config = context.config
    return clean.judge_events(
        without_forgotten(context.lake, events, "user_id"),
        list(config.streams), config.attribute_kinds(), parse_time(config.time.not_before), _not_after_ms(config), config.ingest,
        config.model.embedding_dimensions, others,
    )  # fmt: skip


def _not_after_ms(config: Config) -> int:
    return parse_time(config.time.not_after) if config.time.not_after else int(time.time() * 1000)


def add(context: Context, run: JobRun, judged: DataFrame, batch: tuple[int, int]) -> tuple[int, DataFrame]:
    """Write what the batch changes, whole days at a time; (new events, further refused rows)."""
    ingest, events = context.config.ingest, run.read("events")
    accepted = clean.accepted(judged)
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


def _none(context: Context, ddl: str, *derived: str) -> DataFrame:
    return context.spark.createDataFrame([], ddl).drop(*derived)


JOB = Job(
    "ingest_events",
    "clean the source's rows into events, ads and follows",
    (),
    ("events", "ads", "follows", "quarantine"),
    lambda config: "true",
    ingest,
    plan=plan,
)

if __name__ == "__main__":
    JOB.main()

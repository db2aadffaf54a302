"""What a log leaves to ingestion: dwell that nobody measured, dwell that cannot be true, and local time; and the sums of dwell.

Enters and leaves: validated events (clean.py); each function is the identity where the conf asks for nothing.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from ..clock import DAY_MS, MINUTE_MS
from ..config import IngestConfig

MAX_OFFSET_MINUTES = 14 * 60  # of local time, either way
MAX_DWELL_MS = 366 * DAY_MS
MAY_BE_IMPOSSIBLE = ("position", "utc_offset_minutes", "dwell_ms", "arrival_time")  # what drop_impossible looks at


def dwell_from_next(validated: DataFrame, ingest: IngestConfig, others: DataFrame | None = None) -> DataFrame:
    """Dwell of the streams `ingest.dwell_from_next`, where it is null: the gap to the user's next event of the session.

    Next in the order of becoming known. The gap is known with the next event only, so that is when the event becomes known;
    where the session ended (no next event within the session gap) dwell stays null, and that is known when the gap is over.
    Nothing in a history tells what was not known yet. others: EVENTS with their `_content` that are there already, among which the next
    one may be; they stay as they are. One shuffle by user.
    """
    if not ingest.dwell_from_next:
        return validated
    takes_part = F.col("reason").isNull() & (F.col("_n") == 1)
    known = _among(validated, ingest, others, takes_part) if others is not None else _gap_to_next(validated, ingest, takes_part)
    return bound_dwell(known, ingest)


def _gap_to_next(rows: DataFrame, ingest: IngestConfig, takes_part: Column) -> DataFrame:
    """dwell_ms and known_at of the rows that take part, of which one is the next event of another."""
    gap_ms = round(ingest.session_gap_minutes * MINUTE_MS)
    ordered = Window.partitionBy("user_id", takes_part).orderBy("known_at", "_content")
    known, happened = F.unix_millis("known_at"), F.unix_millis("event_time")
    next_known, next_happened = F.lead(known).over(ordered), F.lead(happened).over(ordered)
    measured = F.col("dwell_ms").isNotNull() | F.col("_dwell_outlier")
    derived = takes_part & F.col("source").isin(list(ingest.dwell_from_next)) & ~measured
    goes_on = next_known - known <= gap_ms
    dwell = F.when(goes_on & (next_happened >= happened), next_happened - happened)
    moment = F.timestamp_millis(F.when(goes_on, next_known).otherwise(known + gap_ms))
    return rows.withColumns(
        {
            "dwell_ms": F.when(derived, dwell).otherwise(F.col("dwell_ms")),
            "known_at": F.when(derived, moment).otherwise(F.col("known_at")),
        }
    )


def _among(validated: DataFrame, ingest: IngestConfig, others: DataFrame, takes_part: Column) -> DataFrame:
    """_gap_to_next of validated rows among others of their users.

    Where both have an event_id, the one that was known first counts; a validated row that was not keeps its dwell, and is known after the
    other one, whatever next event that waited for.
    """
    before = F.greatest("event_time", "arrival_time")  # known_at without what dwell_from_next added
    held = others.select("event_id", before.alias("_held_at"), F.unix_millis("known_at").alias("_held_ms"))
    loses = F.col("_loses")
    mine = validated.join(held, "event_id", "left").withColumn("_loses", F.coalesce(F.col("_held_at") <= F.col("known_at"), F.lit(False)))
    mine = mine.withColumn("known_at", F.when(loses, F.timestamp_millis(F.col("_held_ms") + 1)).otherwise(F.col("known_at")))
    displaced = mine.where(F.col("_held_at").isNotNull() & ~loses & takes_part).select("event_id")
    theirs = others.join(displaced, "event_id", "left_anti").join(validated.select("user_id"), "user_id", "left_semi")
    flags = (F.lit(1).alias("_n"), F.lit(False).alias("_loses"), F.lit(False).alias("_dwell_outlier"), F.lit(True).alias("_other"))
    theirs = theirs.select("user_id", "event_time", "_content", before.alias("known_at"), *flags)
    rows = mine.withColumn("_other", F.lit(False)).unionByName(theirs, allowMissingColumns=True)
    return _gap_to_next(rows, ingest, takes_part & ~loses).where(~F.col("_other")).drop("_other", "_loses", "_held_at", "_held_ms")


def drop_impossible(checked: DataFrame, not_before_ms: int) -> DataFrame:
    """What cannot be true becomes null, and the event stays: a slot below 0, local time 14 hours off, a dwell of more than a year, an
    arrival before not_before_ms (year 1 stands for "not yet").

    `_nulled` (ARRAY<STRING>, null for none) names the columns.
    """
    impossible = {
        "position": F.col("position") < 0,
        "utc_offset_minutes": ~F.col("utc_offset_minutes").between(-MAX_OFFSET_MINUTES, MAX_OFFSET_MINUTES),
        "dwell_ms": F.col("dwell_ms") > MAX_DWELL_MS,
        "arrival_time": F.unix_millis("arrival_time") < not_before_ms,
    }
    found = F.array_compact(F.array(*(F.when(condition, F.lit(name)) for name, condition in impossible.items())))
    any_of = F.coalesce(*(F.when(condition, F.lit(True)) for condition in impossible.values()))
    marked = checked.withColumn("_nulled", F.when(any_of & F.col("reason").isNull(), found))
    return marked.withColumns({name: F.when(condition, None).otherwise(F.col(name)) for name, condition in impossible.items()})


def bound_dwell(validated: DataFrame, ingest: IngestConfig) -> DataFrame:
    """A dwell outside [dwell_min_ms, dwell_max_ms] becomes null (DynamiX, section 3: at least 250 ms, no unrealistic hours).

    The event stays: it was seen, only its dwell is not to be believed. `_dwell_outlier` (BOOLEAN) marks it.
    """
    dwell = F.col("dwell_ms")
    outside: Column = dwell < ingest.dwell_min_ms
    if ingest.dwell_max_ms:
        outside = outside | (dwell > ingest.dwell_max_ms)
    before = F.col("_dwell_outlier") if "_dwell_outlier" in validated.columns else F.lit(False)
    marked = validated.withColumn("_dwell_outlier", before | F.coalesce(outside & F.col("reason").isNull(), F.lit(False)))
    return marked.withColumn("dwell_ms", F.when(~F.col("_dwell_outlier"), dwell))


def fill_local_time(validated: DataFrame, ingest: IngestConfig) -> DataFrame:
    """utc_offset_minutes of the event's country where the event has none."""
    if not ingest.utc_offset_minutes:
        return validated
    offsets = F.create_map(*(F.lit(part) for pair in sorted(ingest.utc_offset_minutes.items()) for part in pair))
    return validated.withColumn("utc_offset_minutes", F.coalesce("utc_offset_minutes", offsets[F.col("country")].cast("int")))


def dwell_sums(converted: Column) -> list[Column]:
    """The sums of DWELL_STATISTICS as aggregates over impressions: how many, log dwell, its square (millionths), by conversion.

    converted: BOOLEAN of an impression, null for other events; those and impressions without a dwell do not count. Whole numbers, so
    that sums of parts add up to the bits of the whole. With `user_sequences(also=...)` they ride in the pass of the sequences.
    """
    log = F.log(F.col("dwell_ms").cast("double"))
    terms = {"n": F.lit(1), "sum_log_dwell_micro": F.round(log * 1e6), "sum_log_dwell_sq_micro": F.round(log * log * 1e6)}
    sums = []
    for name, term in terms.items():
        for said, label in ((converted, 1), (~converted, 0)):
            counted = F.when(said & (F.col("dwell_ms") > 0), term.cast("bigint"))
            sums.append(F.coalesce(F.sum(counted), F.lit(0)).alias(f"{name}_{label}"))
    return sums

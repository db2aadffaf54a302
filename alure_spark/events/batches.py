"""A batch of judged events beside those that are there already: duplicates vanish across days, too.

Enters: the `events` table and the accepted rows of a batch. Leaves: what to write. Of two deliveries of one event_id the one that
was known first stays, whichever batch it came with, so that batches in any order end in the table that the whole log gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..canonical import quoted, types
from ..config import IngestConfig
from ..tables import EVENTS
from . import reasons
from .clean import FIRST_YEAR_MS, as_json, conflict, content
from .dwell import drop_impossible


@dataclass(frozen=True)
class Merge:
    """What a batch changes."""

    added: DataFrame  # rows of the batch that stay, in the columns of `events`
    displaced: DataFrame  # (event_id, known_date) of rows of the table that an earlier delivery takes the place of
    refused: DataFrame  # (source, reason, row) of the later of two contents


def merge(existing: DataFrame, batch: DataFrame, ingest: IngestConfig) -> Merge:
    """existing: rows of EVENTS among which a duplicate may be; batch: `clean.accepted(judged)`.

    Contents are compared but for what ingestion itself may have changed (dwell and local time, where `ingest` says so).
    """
    altered = changed_by(ingest)
    shared = sorted(set(batch.columns) & set(existing.columns))
    columns = [quoted(name) for name in shared]
    again = existing.join(batch.select("event_id"), "event_id", "left_semi")  # few: only they are hashed and written as JSON
    # As today's ingestion would have it: a slot below 0 in a row of an earlier release is null in the batch.
    again = drop_impossible(again.withColumn("reason", F.lit(None).cast("string")), FIRST_YEAR_MS).drop("reason", "_nulled")
    old = again.select(
        "event_id",
        F.col("known_date").alias("_old_known_date"),
        F.col("known_at").alias("_old_known_at"),
        F.col("arrival_time").alias("_old_arrival_time"),
        F.col("source").alias("_old_source"),
        content(again.select(*columns), altered, blanks=False).alias("_old_said"),
        as_json(shared).alias("_old_row"),
    )
    new = batch.withColumn("_said", content(batch.select(*columns), altered, blanks=False))
    met = new.join(old, "event_id", "left")
    order_old, order_new = F.struct("_old_known_at", "_old_said", "_old_arrival_time"), F.struct("known_at", "_said", "arrival_time")
    met = met.withColumn("_stays", F.col("_old_known_at").isNull() | (order_new < order_old))
    differs = F.col("_old_known_at").isNotNull() & (F.col("_old_said") != F.col("_said"))
    refused_new = met.where(differs & ~F.col("_stays")).select(
        F.concat(F.lit("events/"), "source").alias("source"),
        conflict(F.col("source"), F.col("_old_source")).alias("reason"),
        as_json(shared).alias("row"),
    )
    refused_old = met.where(differs & F.col("_stays")).select(
        F.concat(F.lit("events/"), "_old_source").alias("source"),
        conflict(F.col("_old_source"), F.col("source")).alias("reason"),
        F.col("_old_row").alias("row"),
    )
    helpers = [name for name in met.columns if name.startswith("_")]
    return Merge(
        added=met.where("_stays").drop(*helpers),
        displaced=met.where(F.col("_stays") & F.col("_old_known_at").isNotNull()).select(
            "event_id", F.col("_old_known_date").alias("known_date")
        ),
        refused=refused_new.union(refused_old),
    )


def changed_by(ingest: IngestConfig) -> tuple[str, ...]:
    """The columns of an event that ingestion may have given another value than the log's."""
    dwell = bool(ingest.dwell_from_next or ingest.dwell_min_ms or ingest.dwell_max_ms)
    return (("dwell_ms",) if dwell else ()) + (("utc_offset_minutes",) if ingest.utc_offset_minutes else ())


def of_quarantine(refused: DataFrame, quarantined: DataFrame) -> DataFrame:
    """The refused rows that quarantine does not hold yet: a batch that comes again is refused once."""
    why = F.regexp_replace("reason", ", in the stream .*$", "").alias("_why")  # which stream has the id may have changed
    key = ["source", "_why", "row"]
    new = refused.select("*", why).dropDuplicates(key)
    return new.join(quarantined.select("source", why, "row"), key, "left_anti").select(*refused.columns)


def from_quarantine(quarantined: DataFrame, shape: DataFrame, attributes: Mapping[str, str] = {}) -> DataFrame:
    """The refused events (QUARANTINE rows) in the columns of `shape` and its types; a value that its type cannot hold is null.

    Texts and times come as text: an id may be hashed by now, bytes and times are text in JSON. attributes: name -> kind.
    """
    targets = types(EVENTS, attributes)
    kinds = [
        T.StructField(item.name, T.StringType() if targets.get(item.name) in ("STRING", "TIMESTAMP") else item.dataType)
        for item in shape.schema.fields
    ]
    return quarantined.select(F.from_json("row", T.StructType(kinds)).alias("row")).select("row.*")


def is_broken() -> Column:
    """Whether a row of QUARANTINE had bytes that are no text. It holds U+FFFD for them, so it cannot be ingested from there."""
    return F.col("reason").endswith(reasons.NOT_UTF8.of(column=""))

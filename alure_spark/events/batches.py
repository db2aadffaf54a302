"""A batch of validated events beside those that are there already: duplicates vanish across days, too.

Enters: the `events` table and the accepted rows of a batch. Leaves: what to write. Of two deliveries of one event_id the one that
was known first stays, whichever batch it came with, so that batches in any order end in the table that the whole log gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, and_, or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..canonical import MALFORMED, quoted, types
from ..config import IngestConfig
from ..tables import EVENTS, REQUIRED_INPUT_COLUMNS
from . import reasons
from .clean import FIRST_YEAR_MS, FREE_TEXT, RAW, conflict
from .content import as_row, changed_by, content, fields_that_may_miss, given
from .dwell import drop_impossible


@dataclass(frozen=True)
class Merge:
    """What a batch changes."""

    added: DataFrame  # rows of the batch that stay, in the columns of `events`
    displaced: DataFrame  # (event_id, known_date) of rows of the table that an earlier delivery takes the place of
    refused: DataFrame  # (source, reason, row) of the later of two contents


def merge(existing: DataFrame, batch: DataFrame, ingest: IngestConfig) -> Merge:
    """existing: rows of EVENTS among which a duplicate may be; batch: `clean.accepted(validated)`.

    Contents are compared but for what ingestion itself may have changed, where `ingest` says so: local time, and a dwell that only one of
    the two has, or that comes from the next event. Where one of two deliveries known at the same time says all that the other one says
    and more, in columns that are missing in the other, it stays: the conf has declared or mapped a column since, and the load came again.
    What only the table holds of such an event is kept.
    """
    altered = changed_by(ingest)
    there, new_ones = ({name.casefold() for name in frame.columns} for frame in (existing, batch))  # as Delta tells names apart
    shared = sorted(name for name in batch.columns if name.casefold() in there)
    columns = [quoted(name) for name in shared]
    may_miss = fields_that_may_miss(batch, altered)
    again = existing.join(batch.select("event_id"), "event_id", "left_semi")  # few: only they are hashed and written as JSON
    # As today's ingestion would have it: a slot below 0 in a row of an earlier release is null in the batch.
    again = drop_impossible(again.withColumn("reason", F.lit(None).cast("string")), FIRST_YEAR_MS).drop("reason", "_nulled")
    only_old = [name for name in existing.columns if name.casefold() not in new_ones]
    old = again.select(
        "event_id",
        F.col("known_date").alias("_old_known_date"),
        F.col("known_at").alias("_old_known_at"),
        F.col("arrival_time").alias("_old_arrival_time"),
        F.col("source").alias("_old_source"),
        content(again.select(*columns), altered).alias("_old_said"),
        content(again.select(*REQUIRED_INPUT_COLUMNS)).alias("_old_core"),
        F.struct(F.lit(0).alias("_"), *_said(again, may_miss)).alias("_old_more"),
        F.struct(F.lit(0).alias("_"), *(quoted(name) for name in only_old)).alias("_old_only"),
        F.col("dwell_ms").alias("_old_dwell"),
        F.col(FREE_TEXT).alias("_old_text"),
        as_row(existing.columns, ingest).alias("_old_row"),
    )
    new = batch.withColumns(
        {
            "_said": content(batch.select(*columns), altered),
            "_core": content(batch.select(*REQUIRED_INPUT_COLUMNS)),
            "_more": F.struct(F.lit(0).alias("_"), *_said(batch, may_miss)),
        }
    )
    met = new.join(old, "event_id", "left")
    same = (F.col("_old_known_at") == F.col("known_at")) & (F.col("_old_core") == F.col("_core"))
    fuller, poorer = (same & _says_more(*pair, may_miss) for pair in (("_more", "_old_more"), ("_old_more", "_more")))
    met = met.withColumns({"_fuller": F.coalesce(fuller, F.lit(False)), "_poorer": F.coalesce(poorer, F.lit(False))})
    derived = F.col("source").isin(list(ingest.dwell_from_next))
    other_dwell = F.lit(False)
    if "dwell_ms" in altered:  # else it is in the content
        other_dwell = F.coalesce(F.col("_old_dwell") != F.col("dwell_ms"), F.lit(False)) & ~derived
    old_dwell, new_dwell = (F.when(~derived, F.col(dwell)) for dwell in ("_old_dwell", "dwell_ms"))
    order_old = F.struct("_old_known_at", _gaps("_old_more", may_miss), "_old_said", "_old_arrival_time", old_dwell, "_old_text")
    order_new = F.struct("known_at", _gaps("_more", may_miss), "_said", "arrival_time", new_dwell, FREE_TEXT)
    met_again = F.col("_old_known_at").isNotNull()
    met = met.withColumn("_stays", ~met_again | (order_new < order_old))
    differs = met_again & (other_dwell | ((F.col("_old_said") != F.col("_said")) & ~F.col("_fuller") & ~F.col("_poorer")))
    refused_new = met.where(differs & ~F.col("_stays")).select(
        F.concat(F.lit("events/"), "source").alias("source"),
        conflict(F.col("source"), F.col("_old_source")).alias("reason"),
        as_row(batch.columns, ingest).alias("row"),
    )
    refused_old = met.where(differs & F.col("_stays")).select(
        F.concat(F.lit("events/"), "_old_source").alias("source"),
        conflict(F.col("_old_source"), F.col("source")).alias("reason"),
        F.col("_old_row").alias("row"),
    )
    kept = [F.when(F.col("_fuller"), F.col("_old_only").getField(name)).alias(name) for name in only_old]
    helpers = [name for name in met.columns if name.startswith("_")]
    return Merge(
        added=met.where("_stays").select("*", *kept).drop(*helpers),
        displaced=met.where(F.col("_stays") & met_again).select("event_id", F.col("_old_known_date").alias("known_date")),
        refused=refused_new.union(refused_old),
    )


def _said(rows: DataFrame, fields: Sequence[T.StructField]) -> list[Column]:
    """The fields as texts (so that a column of another type is other content), null where the rows say nothing in it."""
    held = {item.name.casefold(): item for item in rows.schema.fields}
    names = [(item.name, held.get(item.name.casefold())) for item in fields]
    return [(F.lit(None) if item is None else given(item)).cast("string").alias(name) for name, item in names]


def _gaps(struct: str, fields: Sequence[T.StructField]) -> Column:
    """How many of the fields are null."""
    return reduce(add, (F.col(struct).getField(item.name).isNull().cast("int") for item in fields), F.lit(0))


def _says_more(one: str, other: str, fields: Sequence[T.StructField]) -> Column:
    """Whether the struct `one` has all the values of the struct `other`, and further ones where that has null."""
    pairs = [(F.col(one).getField(item.name), F.col(other).getField(item.name)) for item in fields]
    all_of = reduce(and_, (theirs.isNull() | mine.eqNullSafe(theirs) for mine, theirs in pairs), F.lit(True))
    more = reduce(or_, (theirs.isNull() & mine.isNotNull() for mine, theirs in pairs), F.lit(False))
    return all_of & more


def rows_of_near_days(existing: DataFrame, batch: DataFrame, low: Column, high: Column) -> DataFrame:
    """The rows of `existing` among which a duplicate may be: known on a day from low to high, or on one that holds an id of the batch.

    Of the other days only the hash of the id is read; which of them hold one is collected, a row per day.
    """
    day = F.col("known_date")
    near = (day >= low) & (day <= high)
    far = existing.where(~near).select("event_hash", "known_date").join(batch.select("event_hash"), "event_hash", "left_semi")
    again = [row["known_date"] for row in far.select("known_date").distinct().collect()]
    return existing.where(near | day.isin(again)) if again else existing.where(near)


def of_quarantine(refused: DataFrame, quarantined: DataFrame) -> DataFrame:
    """The refused rows that quarantine does not hold yet: a batch that comes again is refused once."""
    why = F.regexp_replace("reason", ", in the stream .*$", "").alias("_why")  # which stream has the id may have changed
    key = ["source", "_why", "row"]
    new = refused.select("*", why).dropDuplicates(key)
    return new.join(quarantined.select("source", why, "row"), key, "left_anti").select(*refused.columns)


def from_quarantine(quarantined: DataFrame, shape: DataFrame, attributes: Mapping[str, str] = {}) -> DataFrame:
    """The refused events (QUARANTINE rows) in the columns of `shape` and its types; a value that its type cannot hold is null.

    Texts and times come as text: an id may be hashed by now, bytes and times are text in JSON. attributes: name -> kind. RAW is the row
    as it is there: if it is refused again, the next batch that brings it finds it.
    """
    targets = types(EVENTS, attributes)
    kinds = [
        T.StructField(item.name, T.StringType() if targets.get(item.name) in ("STRING", "TIMESTAMP") else item.dataType)
        for item in shape.schema.fields
        if item.name != MALFORMED
    ]
    return quarantined.select(F.from_json("row", T.StructType(kinds)).alias("said"), F.col("row").alias(RAW)).select("said.*", RAW)


def is_broken() -> Column:
    """Whether a row of QUARANTINE is not there as it was, so that it cannot be ingested from there.

    Bytes that are no text are U+FFFD; of a line that cannot be read there is no more than where it is.
    """
    return F.col("reason").endswith(reasons.NOT_UTF8.of(column="")) | (F.col("reason") == reasons.MALFORMED.text)

"""What every room says in columns of Spark: a moment, a sum that is the same in any order, the scope of an as_of, the newest rows."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from ..clock import format_time

UNITS = 1_000_000_000


def timestamp(epoch_ms: int) -> Column:
    """The moment as a TIMESTAMP, whatever the session's time zone."""
    return F.timestamp_millis(F.lit(epoch_ms))


def in_units(value: Column) -> Column:
    """The number in whole billionths (UNITS): what is summed that way is the same in any order of adding."""
    return F.round(value * UNITS).cast("bigint")


def as_of_scope(as_of_ms: int) -> str:
    """The SQL predicate of one as_of: the scope that most jobs replace. Read in a session in UTC, as that of every run is."""
    return f"as_of = TIMESTAMP '{format_time(as_of_ms)}'"


def latest_rows(frame: DataFrame, as_of_ms: int | None = None, key: str = "user_id") -> DataFrame:
    """Each key's newest row, at or before as_of if it is given (rows exist only for touched users: house rule 3)."""
    newest = Window.partitionBy(key).orderBy(F.col("as_of").desc())
    rows = frame if as_of_ms is None else frame.where(F.col("as_of") <= timestamp(as_of_ms))
    return rows.withColumn("_newest", F.row_number().over(newest)).where("_newest = 1").drop("_newest")

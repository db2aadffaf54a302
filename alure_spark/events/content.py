"""What an event says: the hash that tells two contents apart, the columns that count in it, and the text that quarantine keeps.

Enters: frames of typed events (clean.py) or rows of `events`. Cleaning and batches ask here, so that one load and several end alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..canonical import WHITE, quoted
from ..config import IngestConfig
from ..tables import DERIVED_EVENT_COLUMNS, REQUIRED_INPUT_COLUMNS

NO_COUNTRY = "ALL"


def own_id(typed: DataFrame) -> Column:
    """The id of an event whose log gives none: a 128-bit hash of its columns as earlier releases took them, blank texts among them."""
    return wide_hash([quoted(item.name) for item in _said(typed)])


def content(rows: DataFrame, without: Collection[str] = ()) -> Column:
    """128-bit hash of what an event says: all of its columns but its id, when it arrived, what ingestion adds, and `without`.

    A column in which it says nothing (`given`) leaves no trace, so that one which the conf declares later changes no hash.
    """
    said = sorted((item for item in _said(rows) if item.name not in without), key=lambda item: item.name.casefold())
    pairs = [(F.when(given(item).isNotNull(), F.lit(item.name.casefold())), given(item)) for item in said]
    return _seeded([part for pair in pairs for part in pair])


def _said(rows: DataFrame) -> list[T.StructField]:
    return [item for item in rows.schema.fields if _of_the_log(item.name) and item.name not in ("event_id", "arrival_time")]


def _of_the_log(name: str) -> bool:
    """Whether a column is not of ingestion's making."""
    return name not in (*DERIVED_EVENT_COLUMNS, "reason") and not name.startswith("_")


def changed_by(ingest: IngestConfig) -> tuple[str, ...]:
    """The columns of an event that ingestion may have given another value than the log's."""
    dwell = bool(ingest.dwell_from_next or ingest.dwell_min_ms or ingest.dwell_max_ms)
    return (("dwell_ms",) if dwell else ()) + (("utc_offset_minutes",) if ingest.utc_offset_minutes else ())


def fields_that_may_miss(rows: DataFrame, without: Collection[str]) -> list[T.StructField]:
    """The columns of events in which a row may say nothing: attributes and optional columns, but for `without`."""
    return [item for item in _said(rows) if item.name not in (*REQUIRED_INPUT_COLUMNS, *without)]


def given(item: T.StructField) -> Column:
    """The column's value, null where it says nothing: a text of white space, an empty array, no country."""
    column = quoted(item.name)
    if item.name == "country":
        column = F.nullif(column, F.lit(NO_COUNTRY))
    if isinstance(item.dataType, T.StringType):
        return F.when(~blank(column), column)
    return F.when(F.size(column) > 0, column) if isinstance(item.dataType, T.ArrayType) else column


def as_row(columns: Iterable[str], ingest: IngestConfig) -> Column:
    """An event of these columns as quarantine keeps one whose id has other content: JSON of its values, by name, without nulls.

    However it was found, in one load or against `events`, the text is the same. A dwell that may come from the next event is left out.
    """
    names = sorted(filter(_of_the_log, columns), key=str.casefold)
    own = {"country": F.nullif(F.col("country"), F.lit(NO_COUNTRY)).alias("country")}
    if ingest.dwell_from_next:
        own["dwell_ms"] = F.when(~F.col("source").isin(list(ingest.dwell_from_next)), F.col("dwell_ms")).alias("dwell_ms")
    return F.to_json(F.struct(*(own.get(name, quoted(name)) for name in names)))


def blank(column: Column) -> Column:
    return F.btrim(column, F.lit(WHITE)) == ""


def wide_hash(columns: list[Column]) -> Column:
    """128-bit hash of the columns as 32 hex digits; isNull tells (null, 'a') from ('a', null)."""
    return _seeded([*columns, *(column.isNull() for column in columns)])


def _seeded(said: list[Column]) -> Column:
    """Two differently seeded chains; a null changes neither."""
    return F.concat(*(F.lpad(F.hex(F.xxhash64(F.lit(seed), *said)), 16, "0") for seed in (0, 1)))

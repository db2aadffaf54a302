"""Your own tables as canonical frames, by conf alone: one SQL expression per canonical column (source.kind: tables).

Enters: Delta, Parquet, CSV or JSON tables by path, or catalog tables by name. Leaves: events, ads and follows frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..config import format_time
from ..errors import ConfigError, DataError

# Of batch_where, for a batch of events known in [from, to): UTC times, UTC days (a day column of type text is compared as text: with
# "dt >= '{from_date}' AND dt <= '{to_date}'" no event of the batch is lost), and milliseconds since 1970.
PLACEHOLDERS: Mapping[str, Callable[[int, int], str]] = {
    "from": lambda first, _: format_time(first),
    "to": lambda _, end: format_time(end),
    "from_date": lambda first, _: format_time(first)[:10],
    "to_date": lambda _, end: format_time(end)[:10],
    "from_ms": lambda first, _: str(first),
    "to_ms": lambda _, end: str(end),
}


@dataclass(frozen=True)
class TableMapping:
    """One input table: where it is, which rows count, and the expression of every canonical column."""

    columns: Mapping[str, str]  # canonical name -> SQL expression over the table's columns
    path: str = ""  # a file or folder, relative to options.root; or
    table: str = ""  # a catalog table
    format: str = "delta"
    where: str = ""  # SQL predicate; rows outside it are no events of this stream (not refused: not meant)
    batch_where: str = ""  # the same for ingest.batch_days, to read less; it may hold the PLACEHOLDERS
    source: str = ""  # name of the stream, unless columns has an expression for `source`
    read_options: Mapping[str, str] = field(default_factory=dict)  # e.g. header: "true"

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.table):
            raise ConfigError(f"a table mapping has path {self.path!r} and table {self.table!r}: give one of the two")
        name = self.table or self.path
        filled(self.batch_where, name, (0, 1))
        if found := next((one for one in PLACEHOLDERS if f"{{{one}}}" in self.where), None):
            raise ConfigError(f"table {name}: where is {self.where!r}, but {{{found}}} is a time of a batch: it belongs in batch_where")


@dataclass(frozen=True)
class Options:
    events: tuple[TableMapping, ...] = ()
    ads: tuple[TableMapping, ...] = ()
    follows: tuple[TableMapping, ...] = ()
    root: str = ""  # prefix of every relative path

    def __post_init__(self) -> None:
        if not self.events:
            raise ConfigError("source.options.events is empty: map at least one table")
        for mapping in self.events:
            if bool(mapping.source) == ("source" in mapping.columns):
                raise ConfigError(
                    f"source.options.events: {mapping.path or mapping.table} needs a stream: `source: NAME` or columns.source"
                )


def canonical(
    spark: SparkSession, options: Options, batch: tuple[int, int] | None = None
) -> tuple[DataFrame, DataFrame | None, DataFrame | None, DataFrame]:
    """(events, ads, follows, tables); columns that a table does not map are null. Raises DataError naming table and expression.

    tables: one row per mapped table, shaped as preflight.TableCounts; it costs a pass over the columns of `where` and of the times.
    """
    parts = (options.events, options.ads, options.follows)
    mapped = [[_mapped(spark, item, options.root, batch) for item in items] for items in parts]
    frames = [_union([rows for rows, _ in items]) for items in mapped]
    assert frames[0] is not None
    return frames[0], frames[1], frames[2], reduce(DataFrame.unionByName, (counts for items in mapped for _, counts in items))


def filled(batch_where: str, name: str, batch: tuple[int, int]) -> str:
    """The condition with the times of the batch for its placeholders. Raises ConfigError on other braces; {{ and }} stand for one."""

    def one(found: re.Match[str]) -> str:
        text = found.group()
        if text in ("{{", "}}"):
            return text[0]
        if text[1:-1] not in PLACEHOLDERS:
            allowed = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise ConfigError(
                f"table {name}: batch_where is {batch_where!r}, and {text} in it stands for nothing; allowed: {allowed}; a brace that is "
                "meant as one is doubled"
            )
        return PLACEHOLDERS[text[1:-1]](*batch)

    return re.sub(r"\{\{|\}\}|\{[^{}]*\}|[{}]", one, batch_where)


def _union(frames: list[DataFrame]) -> DataFrame | None:
    result: DataFrame | None = None
    for frame in frames:
        result = frame if result is None else result.unionByName(frame, allowMissingColumns=True)
    return result


def _mapped(spark: SparkSession, item: TableMapping, root: str, batch: tuple[int, int] | None) -> tuple[DataFrame, DataFrame]:
    """The rows of one table in canonical columns, and their counts."""
    name = item.table or (item.path if item.path.startswith("/") or "://" in item.path or not root else f"{root.rstrip('/')}/{item.path}")
    conditions = [filled(item.batch_where, name, batch)] if item.batch_where and batch is not None else []
    within = conditions[0] if conditions else ""
    where = " AND ".join(f"({one})" for one in (item.where, within) if one)
    try:
        given = spark.read.table(name) if item.table else spark.read.format(item.format).options(**item.read_options).load(name)
        given = given.where(within) if within else given
        frame = given.where(item.where) if item.where else given
        frame.schema  # noqa: B018  (Spark Connect resolves only when asked)
    except Exception as error:
        raise DataError(f"table {name} ({item.format}) cannot be read with where '{where}': {str(error).splitlines()[0]}") from error
    expressions = dict(item.columns)
    if item.source:
        expressions["source"] = "'" + item.source.replace("'", "''") + "'"
    columns = []
    for column, expression in expressions.items():
        try:
            frame.select(F.expr(expression)).schema  # noqa: B018
        except Exception as error:
            raise DataError(
                f"table {name}: column {column} = '{expression}' cannot be resolved: {str(error).splitlines()[0]}; "
                f"the table has {', '.join(frame.columns)}"
            ) from error
        columns.append(F.expr(expression).alias(column))
    known = _known_ms(frame, expressions) if batch is not None and "source" in expressions else None  # ads and follows are of no batch
    return frame.select(*columns), _counts(given, name, item.where, within, known, batch)


def _known_ms(frame: DataFrame, expressions: Mapping[str, str]) -> Column | None:
    """When the events of a table were known, epoch ms; None where its times are of no type that ingestion takes."""
    times = []
    for column in ("event_time", "arrival_time"):
        if column in expressions:
            time = F.expr(expressions[column])
            kind = frame.select(time).schema[0].dataType
            if not isinstance(kind, T.TimestampType | T.TimestampNTZType | T.DateType | T.StringType):
                return None
            times.append(F.try_to_timestamp(time) if isinstance(kind, T.StringType) else time.cast("timestamp"))
    return F.unix_millis(F.greatest(*times, F.lit(None).cast("timestamp"))) if times else None


def _counts(given: DataFrame, name: str, where: str, batch_where: str, known_ms: Column | None, batch: tuple[int, int] | None) -> DataFrame:
    """One row on a table of which batch_where left `given`, shaped as preflight.TableCounts."""
    condition = F.expr(where) if where else F.lit(True)
    taken = F.coalesce(condition, F.lit(False))
    counted = {"read": F.lit(True), "taken": taken, "unknown": condition.isNull()}
    if batch is not None and known_ms is not None:
        counted["known"] = taken & known_ms.between(batch[0], batch[1] - 1)
    said = {"name": F.lit(name), "where": F.lit(where), "batch_where": F.lit(batch_where)}
    columns = [*said, *counted, *({"known"} - set(counted))]
    row = given.agg(*(F.count_if(one).alias(column) for column, one in counted.items())).withColumns(said)
    return row.select(*(F.lit(None).cast("bigint").alias(column) if column not in row.columns else column for column in columns))

"""Your own tables as canonical frames, by conf alone: one SQL expression per canonical column (source.kind: tables).

Enters: Delta, Parquet, CSV or JSON tables by path, or catalog tables by name. Leaves: events, ads and follows frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ..config import format_time
from ..errors import ConfigError, DataError
from ..masking import masked_text, resolve, resolved


@dataclass(frozen=True)
class TableMapping:
    """One input table: where it is, which rows count, and the expression of every canonical column."""

    columns: Mapping[str, str]  # canonical name -> SQL expression over the table's columns
    path: str = ""  # a file or folder, relative to options.root; or
    table: str = ""  # a catalog table
    format: str = "delta"
    where: str = ""  # SQL predicate; rows outside it are no events of this stream (not refused: not meant)
    batch_where: str = ""  # the same for ingest.batch_days, to read less: {from} and {to} are the batch's UTC times, to exclusive
    source: str = ""  # name of the stream, unless columns has an expression for `source`
    read_options: Mapping[str, str] = field(default_factory=dict)  # e.g. header: "true"

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.table):
            raise ConfigError(f"a table mapping has path {self.path!r} and table {self.table!r}: give one of the two")


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
) -> tuple[DataFrame, DataFrame | None, DataFrame | None]:
    """(events, ads, follows); columns that a table does not map are null. Raises DataError naming table and expression."""
    parts = (options.events, options.ads, options.follows)
    frames = [_union([_mapped(spark, item, options.root, batch) for item in items]) for items in parts]
    assert frames[0] is not None
    return frames[0], frames[1], frames[2]


def _resolved(item: TableMapping) -> TableMapping:
    """The mapping with the secrets that its path, table and read options refer to."""
    named = {"path": item.path, "table": item.table, "read_options": item.read_options}
    return replace(item, **resolved(named, f"source.options: {item.source or item.path or item.table}"))


def _union(frames: list[DataFrame]) -> DataFrame | None:
    result: DataFrame | None = None
    for frame in frames:
        result = frame if result is None else result.unionByName(frame, allowMissingColumns=True)
    return result


def _mapped(spark: SparkSession, item: TableMapping, root: str, batch: tuple[int, int] | None) -> DataFrame:
    item = _resolved(item)
    root = resolve(root, "source.options.root")
    name = item.table or (item.path if item.path.startswith("/") or "://" in item.path or not root else f"{root.rstrip('/')}/{item.path}")
    where = item.where
    if item.batch_where and batch is not None:
        within = item.batch_where.replace("{from}", format_time(batch[0])).replace("{to}", format_time(batch[1]))
        where = f"({where}) AND ({within})" if where else within
    try:
        frame = spark.read.table(name) if item.table else spark.read.format(item.format).options(**item.read_options).load(name)
        frame = frame.where(where) if where else frame
        frame.schema  # noqa: B018  (Spark Connect resolves only when asked)
    except Exception as error:
        said = f"table {name} ({item.format}) cannot be read with where '{where}': {str(error).splitlines()[0]}"
        raise DataError(masked_text(said)) from error
    expressions = dict(item.columns)
    if item.source:
        expressions["source"] = "'" + item.source.replace("'", "''") + "'"
    columns = []
    for column, expression in expressions.items():
        try:
            frame.select(F.expr(expression)).schema  # noqa: B018
        except Exception as error:
            said = f"table {name}: column {column} = '{expression}' cannot be resolved: {str(error).splitlines()[0]}; "
            raise DataError(masked_text(f"{said}the table has {', '.join(frame.columns)}")) from error
        columns.append(F.expr(expression).alias(column))
    return frame.select(*columns)

"""Your own tables as canonical frames, by conf alone: one SQL expression per canonical column (source.kind: tables).

Enters: Delta, Parquet, CSV or JSON tables by path, or catalog tables by name. Leaves: events, ads and follows frames. Each table's
column has a type that its canonical one takes; where tables give it in different types it travels in one that keeps what each says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from .. import canonical as contract
from ..config import format_time
from ..errors import ConfigError, DataError
from ..tables import ADS, EVENTS, FOLLOWS, Table
from . import parquet_times


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
    spark: SparkSession, options: Options, batch: tuple[int, int] | None = None, attributes: Mapping[str, str] | None = None
) -> tuple[DataFrame, DataFrame | None, DataFrame | None]:
    """(events, ads, follows); columns that a table does not map are null. Raises DataError naming table and expression.

    attributes: the declared ones, name -> kind. A column without any value may have any type: an empty table of pandas has INT for all.
    """
    parts: list[tuple[tuple[TableMapping, ...], Table, Mapping[str, str]]] = [
        (options.events, EVENTS, attributes or {}),
        (options.ads, ADS, {}),
        (options.follows, FOLLOWS, {}),
    ]
    frames = []
    for items, table, declared in parts:
        targets = contract.types(table, declared)
        frames.append(
            _union([_checked(_mapped(spark, item, options.root, batch), _name(item, options.root), targets) for item in items], targets)
        )
    assert frames[0] is not None
    return frames[0], frames[1], frames[2]


def what_fails(spark: SparkSession, options: Options, batch: tuple[int, int] | None = None) -> str:
    """The first table that cannot be read to its end, or the first expression that fails on a row, as a sentence; '' for none.

    The sentence has the class of Spark's error but not its text, which quotes the row.
    """
    for item in (*options.events, *options.ads, *options.follows):
        name = _name(item, options.root)
        frame = _read(spark, item, name)
        if error := _failure(frame):
            return f"table {name} ({item.format}) cannot be read: {_kind(error)}; repair or leave out the file"
        where = _where(item, batch)
        remedy = "use try_cast, try_divide, get or try_to_timestamp, which give null for a row that cannot be computed"
        if where and (error := _failure(frame.where(where))):
            return f"table {name}: where '{where}' fails on a row: {_kind(error)}; {remedy}"
        for column, expression in _expressions(item).items():
            part = frame.where(where) if where else frame
            if error := _failure(part.select(F.expr(expression).alias(column))):
                return f"table {name}: column {column} = '{expression}' fails on a row: {_kind(error)}; {remedy}"
    return ""


def _failure(frame: DataFrame) -> Exception | None:
    """What computing every row of the frame raises."""
    try:
        frame.write.format("noop").mode("overwrite").save()
    except Exception as error:
        return error
    return None


def _kind(error: Exception) -> str:
    """The class of an error of Spark, and the file that it names."""
    text = str(error)
    classes = re.findall(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]", text)
    file = re.search(r"\b[a-z0-9]+:/[^\s'\"]+\.[^\s'\"]*[^\s'\".,;:]", text)
    return (", ".join(dict.fromkeys(classes)) or type(error).__name__) + (f" in {file[0]}" if file else "")


def _said(error: Exception) -> str:
    """The first line of an error that was raised before any row was read."""
    lines = [
        line.strip(" :") for line in str(error).splitlines() if line.strip() and not line.startswith("An error occurred while calling")
    ]
    return next((line[line.index("[") :] for line in lines if re.search(r"\[[A-Z][A-Z0-9_.]+\]", line)), lines[0] if lines else repr(error))


def _checked(frame: DataFrame, name: str, targets: Mapping[str, str]) -> DataFrame:
    """The frame, whose columns without any value have their canonical type. Raises DataError on a type that is not allowed."""
    wrong = [
        item for item in frame.schema.fields if item.name in targets and not contract.fits(item.name, item.dataType, targets[item.name])
    ]
    for item in wrong:
        if not frame.where(contract.quoted(item.name).isNotNull()).isEmpty():
            raise DataError(f"table {name}: {contract.problem(item.name, item.dataType, targets[item.name])}")
    return frame.withColumns({item.name: F.lit(None).cast(targets[item.name]) for item in wrong}) if wrong else frame


def _union(frames: list[DataFrame], targets: Mapping[str, str]) -> DataFrame | None:
    given: dict[str, list[T.DataType]] = {}
    for frame in frames:
        for item in frame.schema.fields:
            if not isinstance(item.dataType, T.NullType):
                given.setdefault(item.name, []).append(item.dataType)
    differ = {name: types for name, types in given.items() if len({one.simpleString() for one in types}) > 1}
    result: DataFrame | None = None
    for frame in frames:
        same = {name: contract.carried(name, types, targets.get(name)) for name, types in differ.items() if name in frame.columns}
        frame = frame.withColumns(same) if same else frame
        result = frame if result is None else result.unionByName(frame, allowMissingColumns=True)
    return result


def _name(item: TableMapping, root: str) -> str:
    """The catalog table, or the whole path."""
    return item.table or (item.path if item.path.startswith("/") or "://" in item.path or not root else f"{root.rstrip('/')}/{item.path}")


def _where(item: TableMapping, batch: tuple[int, int] | None) -> str:
    where = item.where
    if item.batch_where and batch is not None:
        within = item.batch_where.replace("{from}", format_time(batch[0])).replace("{to}", format_time(batch[1]))
        where = f"({where}) AND ({within})" if where else within
    return where


def _expressions(item: TableMapping) -> dict[str, str]:
    expressions = dict(item.columns)
    if item.source:
        expressions["source"] = "'" + item.source.replace("'", "''") + "'"
    return expressions


def _read(spark: SparkSession, item: TableMapping, name: str) -> DataFrame:
    """The table's rows as they are. Raises DataError."""
    try:
        frame = spark.read.table(name) if item.table else spark.read.format(item.format).options(**item.read_options).load(name)
        frame.schema  # noqa: B018  (Spark Connect resolves only when asked)
    except Exception as error:
        if "PARQUET_TYPE_ILLEGAL" in str(error) and "NANOS" in str(error) and not item.table:
            return parquet_times.read(spark, name, item.read_options)
        raise DataError(f"table {name} ({item.format}) cannot be read with where '{item.where}': {_said(error)}") from error
    return frame


def _mapped(spark: SparkSession, item: TableMapping, root: str, batch: tuple[int, int] | None) -> DataFrame:
    name, where = _name(item, root), _where(item, batch)
    frame = _read(spark, item, name)
    try:
        frame = frame.where(where) if where else frame
        frame.schema  # noqa: B018
    except Exception as error:
        raise DataError(f"table {name} ({item.format}) cannot be read with where '{where}': {_said(error)}") from error
    columns = []
    for column, expression in _expressions(item).items():
        try:
            frame.select(F.expr(expression)).schema  # noqa: B018
        except Exception as error:
            raise DataError(
                f"table {name}: column {column} = '{expression}' cannot be resolved: {_said(error)}; "
                f"the table has {', '.join(frame.columns)}"
            ) from error
        columns.append(F.expr(expression).alias(column))
    return frame.select(*columns)

"""Your own tables as canonical frames, by conf alone: one SQL expression per canonical column (source.kind: tables).

Enters: Delta, Parquet, CSV or JSON tables by path, or catalog tables by name. Leaves: events, ads, follows and users frames. Each table's
column has a type that its canonical one takes; where tables give it in different types it travels in one that keeps what each says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from .. import canonical as contract
from ..errors import ConfigError, DataError, shown
from ..masking import masked_text, resolve, resolved
from ..paths import located
from ..session import PARTITION_TEXTS, session_settings
from ..tables import ADS, EVENTS, FOLLOWS, IMPRESSION_EXAMPLES, USERS, Table
from . import parquet_times
from .batch_where import filled
from .json_lines import require_one_object, without_broken_lines
from .table_options import Options, TableMapping


def canonical(
    spark: SparkSession,
    options: Options,
    batch: tuple[int, int] | None = None,
    attributes: Mapping[str, str] | None = None,
    of_users: Mapping[str, str] | None = None,
) -> tuple[DataFrame, DataFrame | None, DataFrame | None, DataFrame, DataFrame | None]:
    """(events, ads, follows, tables, users); columns that a table does not map are null. Raises DataError naming table and expression.

    attributes: the declared ones, name -> kind. A column without any value may have any type: an empty table of pandas has INT for all.
    of_users: those of users; None leaves users out. tables: one row per mapped table, shaped as preflight.TableCounts; it costs passes over
    the columns of `where` and of the times.
    """
    if not options.events:
        raise ConfigError("source.options.events is empty, which ingest_events reads: map a table, or run jobs/ingest_examples.py alone")
    if options.users and of_users == {}:
        raise ConfigError("source.options.users maps a table, but users.attributes is empty, so nothing of it is read: declare attributes")
    options = _resolved(options)
    parts: list[tuple[tuple[TableMapping, ...], Table, Mapping[str, str]]] = [
        (options.events, EVENTS, attributes or {}),
        (options.ads, ADS, {}),
        (options.follows, FOLLOWS, {}),
        (options.users if of_users else (), USERS, of_users or {}),
    ]
    frames, counts = [], []
    for items, table, declared in parts:
        frame, counted = _read_all(spark, items, options.root, contract.types(table, declared), batch)
        frames.append(frame)
        counts += counted
    assert frames[0] is not None
    return frames[0], frames[1], frames[2], reduce(DataFrame.unionByName, counts), frames[3]


def examples(spark: SparkSession, options: Options, columns: Mapping[str, str]) -> DataFrame:
    """The rows of source.options.examples, in columns of IMPRESSION_EXAMPLES and the declared ones. Raises as `canonical` does.

    columns: field -> kind as of an attribute, and task -> numeric.
    """
    options = _resolved(options)
    targets = contract.types(IMPRESSION_EXAMPLES, columns)
    if not options.examples:
        raise ConfigError("source.options.examples is empty, which ranking.fields reads: map a table of labelled impressions")
    frame, _ = _read_all(spark, options.examples, options.root, targets, None)
    assert frame is not None
    return frame


def _read_all(
    spark: SparkSession, items: tuple[TableMapping, ...], root: str, targets: Mapping[str, str], batch: tuple[int, int] | None
) -> tuple[DataFrame | None, list[DataFrame]]:
    """The rows of tables of one kind, and the counts of each."""
    _check_spelling(items, targets)
    mapped = [(_name(item, root), *_mapped(spark, item, root, batch)) for item in items]
    return _union([_checked(rows, name, targets) for name, rows, _ in mapped], targets), [count for _, _, count in mapped]


def _check_spelling(items: tuple[TableMapping, ...], targets: Mapping[str, str]) -> None:
    """Raises ConfigError for a column that nothing reads and that is nearly called as one that is read (arival_time): it would be null."""
    for item in items:
        for name in item.columns:
            if name not in targets and (close := difflib.get_close_matches(name, targets, n=1, cutoff=0.8)):
                raise ConfigError(f"source.options: {item.path or item.table} maps the column {shown(name)}; did you mean {close[0]!r}?")


def _resolved(options: Options) -> Options:
    """The options with the secrets that paths, tables and read options refer to."""

    def one(item: TableMapping) -> TableMapping:
        named = {"path": item.path, "table": item.table, "read_options": item.read_options}
        return replace(item, **resolved(named, f"source.options: {item.source or item.path or item.table}"))

    parts = {name: tuple(map(one, getattr(options, name))) for name in ("events", "ads", "follows", "users", "examples")}
    return replace(options, root=resolve(options.root, "source.options.root"), **parts)


def what_fails(spark: SparkSession, options: Options, batch: tuple[int, int] | None = None) -> str:
    """The first table that cannot be read to its end, or the first expression that fails on a row, as a sentence; '' for none.

    The sentence has the class of Spark's error but not its text, which quotes the row.
    """
    options = _resolved(options)
    for item in (*options.events, *options.ads, *options.follows, *options.users, *options.examples):
        name = _name(item, options.root)
        if error := _failure(_read(spark, item, name, by_place=True)):
            return f"table {name} ({item.format}) cannot be read: {_kind(error)}; repair or leave out the file"
        frame = _read(spark, item, name)
        conditions = [one for one in (_within(item, batch), item.where) if one]
        taken = reduce(DataFrame.where, conditions, frame)
        remedy = "use try_cast, try_divide, get or try_to_timestamp, which give null for a row that cannot be computed"
        if conditions and (error := _failure(taken)):
            said = f"table {name}: where '{' AND '.join(conditions)}' fails on a row: {_kind(error)}; {remedy}"
            return _of_headers(item, name, error) or said
        for column, expression in _expressions(item).items():
            if error := _failure(taken.select(F.expr(expression).alias(column))):
                said = f"table {name}: column {column} = '{expression}' fails on a row: {_kind(error)}; {remedy}"
                return _of_headers(item, name, error) or said
    return ""


def _failure(frame: DataFrame) -> Exception | None:
    """What computing every row of the frame raises."""
    try:
        frame.write.format("noop").mode("overwrite").save()
    except Exception as error:
        return error
    return None


def _of_headers(item: TableMapping, name: str, error: Exception) -> str:
    """A sentence where a file of the table, which can be read by place, has another header than the first one; else ''."""
    if "FAILED_READ_FILE" not in (kind := _kind(error)) or not _compares_headers(item):
        return ""
    return (
        f"table {name} (csv) has files whose headers differ, so that values would come from the wrong columns: {kind}; give them one "
        "header, map them as tables of their own, or say enforceSchema: 'true' in read_options to have columns read by their place"
    )


def _kind(error: Exception) -> str:
    """The class of an error of Spark, and the file that it names."""
    text = str(error)
    classes = re.findall(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]", text)
    file = re.search(r"\b[a-z0-9]+:/[^\s'\"]+\.[^\s'\"]*[^\s'\".,;:]", text)
    named = ", ".join(dict.fromkeys(classes or re.findall(r"java\.lang\.(\w+(?:Exception|Error): [\w ]+)", text)[:1]))
    return (named or type(error).__name__) + (f" in {file[0]}" if file else "")


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
    return item.table or located(item.path, root, item.format)


def _within(item: TableMapping, batch: tuple[int, int] | None) -> str:
    """batch_where with the times of the batch; '' for a whole load."""
    return filled(item.batch_where, item.table or item.path, batch) if item.batch_where and batch is not None else ""


def _expressions(item: TableMapping) -> dict[str, str]:
    expressions = dict(item.columns)
    if item.source:
        expressions["source"] = "'" + item.source.replace("'", "''") + "'"
    return expressions


def _compares_headers(item: TableMapping) -> bool:
    """Whether each file's header must be that of the first: Spark reads the columns of CSV files by their place."""
    given = {key.lower(): str(value).lower() for key, value in item.read_options.items()}
    return not item.table and item.format.lower() == "csv" and given.get("header") == "true" and "enforceschema" not in given


def _reads_renamed(item: TableMapping, columns: list[str]) -> bool:
    """Whether the mapping reads columns that Spark calls otherwise than the header does: _c0 (the index of pandas has no name), u0 and u1
    (of u, u). Their headers cannot be compared.
    """
    bases = [column.removesuffix(str(place)).lower() if column.endswith(str(place)) else "" for place, column in enumerate(columns)]
    renamed = [column for column, base in zip(columns, bases, strict=True) if base == "_c" or (base and bases.count(base) > 1)]
    text = " ".join((*item.columns.values(), item.where, item.batch_where)).lower()
    whole = "*" in text or any(key.lower() == "multiline" for key in item.read_options)  # of multi-line files Spark reads all columns
    return bool(renamed) and (whole or any(column.lower() in text for column in renamed))


def _read(spark: SparkSession, item: TableMapping, name: str, by_place: bool = False) -> DataFrame:
    """The table's rows as they are; by_place: whatever the headers of its CSV files say. Raises DataError."""

    # RFC 4180, as pandas and spreadsheets write: a quote within quotes is doubled. Spark's default is a backslash before it.
    csv = {"escape": '"'} if item.format.lower() == "csv" and not any(key.lower() == "escape" for key in item.read_options) else {}

    def load(**more: str) -> DataFrame:
        return spark.read.format(item.format).options(**csv, **more, **item.read_options).load(name)

    try:
        with session_settings(spark, PARTITION_TEXTS):
            compares = not by_place and _compares_headers(item)
            frame = spark.read.table(name) if item.table else load(enforceSchema="false") if compares else load()
            if compares and _reads_renamed(item, frame.columns):
                frame = load()
            frame.schema  # noqa: B018  (Spark Connect resolves only when asked)
    except Exception as error:
        if "PARQUET_TYPE_ILLEGAL" in str(error) and "NANOS" in str(error) and not item.table:
            return parquet_times.read(spark, name, item.read_options)
        raise DataError(masked_text(f"table {name} ({item.format}) cannot be read with where '{item.where}': {_said(error)}")) from error
    return frame


def _mapped(spark: SparkSession, item: TableMapping, root: str, batch: tuple[int, int] | None) -> tuple[DataFrame, DataFrame]:
    """The rows of one table in canonical columns, and their counts."""
    name, within = _name(item, root), _within(item, batch)
    given = _read(spark, item, name)
    require_one_object(spark, item, name, within)
    given, broken = without_broken_lines(given, item, within)
    try:
        given = given.where(within) if within else given
        frame = given.where(item.where) if item.where else given
        frame.schema  # noqa: B018
    except Exception as error:
        where = " AND ".join(one for one in (item.where, within) if one)
        raise DataError(masked_text(f"table {name} ({item.format}) cannot be read with where '{where}': {_said(error)}")) from error
    expressions = _expressions(item)
    columns = [F.expr(expression).alias(column) for column, expression in expressions.items()]
    for column, expression in expressions.items():
        try:
            values = len(frame.select(F.expr(expression)).columns)
            by_row = values == 1 and not _aggregates(frame, expression)
        except Exception as error:
            said = f"table {name}: column {column} = '{expression}' cannot be resolved: {_said(error)}; "
            raise DataError(masked_text(f"{said}the table has {', '.join(frame.columns)}")) from error
        if not by_row:
            what = f"has {values} columns" if values != 1 else "is one value of many rows"
            raise DataError(
                masked_text(
                    f"table {name}: column {column} = '{expression}' {what}; allowed: one value for each row (an aggregate needs OVER "
                    "(PARTITION BY ...), or a view that is mapped in the table's place)"
                )
            )
    rows = _selected(frame, columns, name)
    told = {"name": F.lit(name), "where": F.lit(item.where), "batch_where": F.lit(within)}
    counts = _counts(given, frame, item.where, _of_batch(frame, expressions, batch)).withColumns(told)
    return (rows if broken is None else rows.unionByName(broken, allowMissingColumns=True)), counts


def _aggregates(frame: DataFrame, expression: str) -> bool:
    """Whether the expression, which can be resolved, is one value of all rows: it cannot stand beside a value of each row."""
    try:
        frame.select(contract.quoted(frame.columns[0]), F.expr(expression)).schema  # noqa: B018
    except Exception:
        return True
    return False


def _selected(frame: DataFrame, columns: list[Column], name: str) -> DataFrame:
    """The columns, each of which can be resolved alone. Raises DataError where they do not go together."""
    try:
        rows = frame.select(*columns)
        rows.schema  # noqa: B018
    except Exception as error:
        raise DataError(masked_text(f"table {name}: its columns cannot be read together: {_said(error)}")) from error
    return rows


def _of_batch(frame: DataFrame, expressions: Mapping[str, str], batch: tuple[int, int] | None) -> Column | None:
    """Whether an event is known in the batch; None for a whole load, for ads and follows, and for times that ingestion does not take."""
    if batch is None or "source" not in expressions:
        return None
    times: list[Column] = [F.lit(None).cast("timestamp")] * 2
    for place, column in enumerate(column for column in ("event_time", "arrival_time") if column in expressions):
        time = F.expr(expressions[column])
        kind = frame.select(time).schema[0].dataType
        if not isinstance(kind, T.TimestampType | T.TimestampNTZType | T.DateType | T.StringType):
            return None
        times[place] = F.try_to_timestamp(time) if isinstance(kind, T.StringType) else time.try_cast("timestamp")
    return F.unix_millis(F.greatest(*times)).between(batch[0], batch[1] - 1)


def _counts(given: DataFrame, frame: DataFrame, where: str, of_batch: Column | None) -> DataFrame:
    """One row: of the rows that batch_where left (`given`) how many `where` takes (`frame`), for how many it is null, the batch's.

    One pass. A condition with a subquery is allowed in a filter only, so it takes three.
    """
    nothing = F.lit(None).cast("boolean")
    of_batch = nothing if of_batch is None else of_batch
    takes = F.expr(f"({where or 'true'}\n)")  # it may end in a comment
    try:
        rows = given.select(takes.alias("takes"), F.when(takes, of_batch).alias("of_batch"))
        rows.schema  # noqa: B018
    except Exception:
        rows = frame.select(F.lit(True).alias("takes"), of_batch.alias("of_batch"))
        for condition, value in ((f"({where}\n) IS NULL", nothing), (f"NOT ({where}\n)", F.lit(False))):
            rows = rows.union(given.where(condition).select(value, nothing))
    counts = {"read": F.lit(True), "taken": F.col("takes"), "unknown": F.col("takes").isNull()}
    known = F.lit(None).cast("bigint") if of_batch is nothing else F.count_if("of_batch")
    return rows.agg(*(F.count_if(condition).alias(name) for name, condition in counts.items()), known.alias("known"))

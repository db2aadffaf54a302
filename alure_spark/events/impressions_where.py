"""Which impressions a condition of the conf holds for, and rows that keep these impressions alone.

Enters: rows shaped as TRAINING_EXAMPLES, also with `impression__<field>`, and a condition in SQL over one impression. Leaves: the same rows
with fewer impressions; the sequences that they look back on stay whole, for a downstream task has the same users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..config import Config, DownstreamConfig
from ..errors import ConfigError, shown
from ..masking import masked_text
from ..tables import SHOWN_KNOWN, TRAINING_EXAMPLES

OF_ROW = ("user_id", "country", "as_of", "segment")
LISTED = tuple(column.name for column in TRAINING_EXAMPLES.columns if column.type.startswith("ARRAY"))
# What a condition may read of an impression, beside impression__NAME: nothing that tells how it ended or how it is learnt from.
OF_IMPRESSION = ("impression_id", "time_ms", "ad_id", "account_id")


def downstream_rows(rows: DataFrame, name: str, its: DownstreamConfig, tasks: Iterable[str]) -> DataFrame:
    """The rows with the impressions of a downstream task alone, those without any left out.

    tasks: whose labels the rows have. Raises ConfigError where the condition cannot be read.
    """
    if its.where:
        rows = _selected(rows, {f"transfer.downstream.{name}.where": its.where}, tasks)
    return rows.where(F.size("time_ms") > 0)


def upstream_rows(examples: DataFrame, config: Config) -> DataFrame:
    """training_examples as the user model learns from them: with transfer.upstream others, without the impressions of downstream tasks.

    All rows stay, also those without an impression. Raises ConfigError where a condition cannot be read.
    """
    if config.transfer.upstream == "all":
        return examples
    conditions = {f"transfer.downstream.{name}.where": its.where or "true" for name, its in config.transfer.downstream.items()}
    return _selected(examples, conditions, config.labels.declared, others=True)


def _selected(rows: DataFrame, conditions: Mapping[str, str], tasks: Iterable[str], others: bool = False) -> DataFrame:
    """The rows with the impressions that one of the conditions (path in the conf -> text) is true of; others: with all but these.

    One shuffle of what a condition may read, one of the rows. A condition may have window functions: min(time_ms) OVER (PARTITION BY
    account_id) is when an account began.
    """
    readable = _readable(rows)
    each = rows.select(*OF_ROW, F.posexplode(F.arrays_zip(*readable)).alias("_place", "_one")).select(*OF_ROW, "_place", "_one.*")
    holds = [_condition(each, path, where, [*OF_ROW, *readable]) for path, where in conditions.items()]
    any_holds = reduce(or_, holds)
    keys = ["user_id", "as_of", "segment"]
    told = each.select(*keys, F.struct("_place", (~any_holds if others else any_holds).alias("_takes")).alias("_one"))
    listed = told.groupBy(*keys).agg(F.sort_array(F.collect_list("_one"))["_takes"].alias("_takes"))
    arrays = {*LISTED, SHOWN_KNOWN, *tasks} & {*rows.columns} | {name for name in rows.columns if name.startswith("impression__")}
    kept = {name: F.filter(name, lambda _, place: F.get(F.col("_takes"), place)) for name in sorted(arrays)}
    return rows.join(listed, keys, "left").withColumns(kept).select(*rows.columns)


def _condition(each: DataFrame, path: str, where: str, known: Iterable[str]) -> Column:
    """Whether the condition is true of an impression, which each has one row of. Raises ConfigError."""
    given = F.expr(f"({where}\n)")  # it may end in a comment
    try:
        kind = each.select("_place", given.alias("_given")).schema["_given"].dataType
    except Exception as error:
        raise ConfigError(
            f"{path} is {shown(where)}, which cannot be read: {masked_text(_said(error))} Allowed: a condition in SQL over one "
            f"impression, of {', '.join(known)}"
        ) from error
    if not isinstance(kind, T.BooleanType):
        raise ConfigError(f"{path} is {shown(where)}, whose values are {kind.simpleString()}; allowed: a condition, true or false")
    return F.coalesce(given, F.lit(False))


def _readable(rows: DataFrame) -> list[str]:
    """The arrays of single values that a condition may read of an impression."""

    def single(kind: T.DataType) -> bool:
        return isinstance(kind, T.ArrayType) and not isinstance(kind.elementType, T.ArrayType | T.MapType | T.StructType)

    named = [item.name for item in rows.schema.fields if single(item.dataType)]
    return [name for name in named if name in OF_IMPRESSION or name.startswith("impression__")]


def _said(error: Exception) -> str:
    """The first sentence of what Spark says of an expression."""
    lines = [line.strip(" ;.") for line in str(error).splitlines() if line.strip()]
    return f"{lines[0] if lines else type(error).__name__}."

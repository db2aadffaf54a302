"""Canonical input -> accepted rows and refused rows. Every input row is accepted, an exact duplicate, or refused with a reason.

Enters: the frames of a source adapter. Leaves: `events`, `ads`, `follows` and `quarantine` rows. A frame that breaks the
contract as a whole (a missing column, a wrong type) is a DataError; a bad row is refused alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..config import DAY_MS, IngestConfig, format_time
from ..errors import DataError, nearest
from ..tables import ADS, ATTRIBUTE_TYPES, DERIVED_EVENT_COLUMNS, EVENTS, FOLLOWS, REQUIRED_INPUT_COLUMNS, Table
from .dwell import bound_dwell, dwell_from_next, fill_local_time

NO_COUNTRY = "ALL"
OTHER_CONTENT = "event_id has other content already"
UNKNOWN_COUNTRY = "unknown"  # the source has countries, but this row has none


def id_hash(column: Column) -> Column:
    """Stable signed 64-bit hash of a raw id; null stays null (house rule 1)."""
    return F.when(column.isNotNull(), F.xxhash64(column))


def judge_events(
    frame: DataFrame,
    streams: list[str],
    attributes: Mapping[str, str],
    not_before_ms: int,
    not_after_ms: int,
    ingest: IngestConfig | None = None,
) -> DataFrame:
    """Every input event, typed, with the verdict on it; `accepted` and `refused` split it (persist it between the two).

    Of rows with one event_id the first by (known_at, content) stays, equal copies vanish, copies with other content are refused;
    when a copy arrived is not its content, as a log that delivers at least once may deliver late. Dwell and local time come as
    `ingest` wants them; `_dwell_outlier` marks a dwell that was out of its bounds. Raises DataError on a missing required column
    or declared attribute, or on a column of the wrong type.
    """
    ingest = ingest or IngestConfig()
    typed = _typed(frame, EVENTS, attributes, DERIVED_EVENT_COLUMNS, REQUIRED_INPUT_COLUMNS)
    no_country = UNKNOWN_COUNTRY if "country" in frame.columns else NO_COUNTRY
    typed = typed.withColumn("country", F.coalesce("country", F.lit(no_country))).withColumn("_content", content(typed))
    typed = typed.withColumn("event_id", F.coalesce("event_id", "_content")).withColumn(
        "known_at", F.greatest("event_time", "arrival_time")
    )
    late_ms = F.unix_millis("known_at") - F.unix_millis("event_time")
    numeric = [name for name, kind in attributes.items() if kind == "numeric" and name not in EVENTS.column_names]
    reason = _first_reason(
        (_empty("user_id"), "user_id is null or empty"),
        (F.col("event_time").isNull(), "event_time is missing or unparsable"),
        (_unparsed(frame, "arrival_time"), "arrival_time is unparsable"),
        (F.unix_millis("event_time") < not_before_ms, f"event_time is before {format_time(not_before_ms)}"),
        (F.unix_millis("known_at") >= not_after_ms, "event_time or arrival_time is in the future"),
        *([(late_ms > int(ingest.late_days * DAY_MS), f"arrived more than {ingest.late_days:g} days late")] if ingest.late_days else []),
        (_empty("source"), "source is null or empty"),
        (~F.col("source").isin(streams), "source is not declared in streams"),
        (_empty("item_id"), "item_id is null or empty"),
        (F.col("dwell_ms") < 0, "dwell_ms is negative"),
        (F.exists("media_embedding", lambda x: x.isNull() | F.isnan(x)), "media_embedding has NaN or null"),
        *((_not_finite(name), f"{name} is not finite") for name in ("value", *numeric)),
    )
    checked = typed.withColumn("reason", reason)
    checked = checked.withColumn("_raw", F.when(F.col("reason").isNotNull(), F.col("_raw")))  # JSON of every row would double the shuffle
    judged = _first_per_key(checked, ("event_id",), ("known_at", "_content", "arrival_time"), OTHER_CONTENT)
    conflicting = F.when(F.col("reason").isNotNull(), as_json([name for name in typed.columns if name in frame.columns]))
    judged = judged.withColumn("_raw", F.coalesce("_raw", conflicting))
    judged = fill_local_time(bound_dwell(dwell_from_next(judged, ingest), ingest), ingest)
    return judged.select(
        "*",
        F.concat(F.lit("events/"), F.coalesce("source", F.lit("?"))).alias("_from"),
        F.to_date("known_at").alias("known_date"),
        F.xxhash64("event_id").alias("event_hash"),
        id_hash(F.col("item_id")).alias("item_hash"),
    )


def content(typed: DataFrame, without: Collection[str] = ()) -> Column:
    """128-bit hash of what an event says: all of its columns but its id, when it arrived, what ingestion adds, and `without`."""
    left_out = ("event_id", "arrival_time", *DERIVED_EVENT_COLUMNS, *without)
    return _wide_hash([name for name in typed.columns if name not in left_out and not name.startswith("_")])


def as_json(names: Collection[str]) -> Column:
    """The columns as one JSON object, the way quarantine keeps a row; nulls are left out."""
    return F.to_json(F.struct(*(F.col(f"`{name}`") for name in names)))


def judge_ads(frame: DataFrame) -> DataFrame:
    """Every input ad with the verdict on it: one row per (ad_id, active_from) stays, other content for that key is refused."""
    typed = _typed(frame, ADS, {}, ("ad_hash",), ("ad_id", "account_id", "active_from"))
    reason = _first_reason(
        (_empty("ad_id"), "ad_id is null or empty"),
        (_empty("account_id"), "account_id is null or empty"),
        (F.col("active_from").isNull(), "active_from is missing or unparsable"),
        (F.col("active_to") <= F.col("active_from"), "active_to is not after active_from"),
        *((_not_finite(name), f"{name} is not finite") for name in ("bid", "value")),
    )
    typed = typed.withColumn("_content", _wide_hash([name for name in typed.columns if name != "_raw"]))
    judged = _first_per_key(typed.withColumn("reason", reason), ADS.key, (), "ad_id and active_from have other content already")
    return judged.select("*", F.lit(ADS.name).alias("_from"), id_hash(F.col("ad_id")).alias("ad_hash"))


def judge_follows(frame: DataFrame) -> DataFrame:
    """Every input follow with the verdict on it: of equal pairs the earliest stays, later ones vanish."""
    typed = _typed(frame, FOLLOWS, {}, (), FOLLOWS.column_names)
    reason = _first_reason(
        (_empty("src_user_id") | _empty("dst_user_id"), "a user id is null or empty"),
        (F.col("event_time").isNull(), "event_time is missing or unparsable"),
        (F.col("src_user_id") == F.col("dst_user_id"), "a user follows itself"),
    )
    typed = typed.withColumn("_content", F.lit(""))
    return _first_per_key(typed.withColumn("reason", reason), FOLLOWS.key, ("event_time",), "").withColumn("_from", F.lit(FOLLOWS.name))


def accepted(judged: DataFrame) -> DataFrame:
    """The rows that stay, in the table's columns."""
    helpers = [name for name in judged.columns if name.startswith("_")]
    return judged.where("reason IS NULL AND _n = 1").drop(*helpers, "reason")


def refused(judged: DataFrame) -> DataFrame:
    """The refused rows as QUARANTINE holds them, without run_id: source, reason, row."""
    return judged.where("reason IS NOT NULL").select(F.col("_from").alias("source"), "reason", F.col("_raw").alias("row"))


def _first_per_key(checked: DataFrame, key: tuple[str, ...], order: tuple[str, ...], conflict: str) -> DataFrame:
    """Number the unrefused rows of a key (_n = 1 stays) and refuse those whose content differs from the first's."""
    ordered = Window.partitionBy(*key, F.col("reason").isNull()).orderBy(*order, "_content")
    ranked = checked.select("*", F.row_number().over(ordered).alias("_n"), F.first("_content").over(ordered).alias("_kept"))
    differs = F.col("reason").isNull() & (F.col("_content") != F.col("_kept"))
    return ranked.withColumn("reason", F.when(differs, F.lit(conflict)).otherwise(F.col("reason")))


def _typed(frame: DataFrame, of: Table, attributes: Mapping[str, str], derived: tuple[str, ...], required: tuple[str, ...]) -> DataFrame:
    """The table's columns and the declared attributes in their types, missing optional ones as null, and `_raw` (the row as JSON)."""
    given = {item.name: item.dataType for item in frame.schema.fields}
    targets = {column.name: column.type for column in of.columns if column.name not in derived}
    targets.update({name: ATTRIBUTE_TYPES[kind][0] for name, kind in attributes.items() if name not in targets})
    for name in (*required, *(name for name in attributes)):
        if name not in given:
            raise DataError(f"table '{of.name}' lacks the column '{name}'{nearest(name, given)}")
    columns = [
        _cast(name, given[name], kind, of.name) if name in given else F.lit(None).cast(kind).alias(name) for name, kind in targets.items()
    ]
    return frame.select(*columns, as_json(given).alias("_raw"))


def _cast(name: str, given: T.DataType, target: str, table_name: str) -> Column:
    column = F.col(f"`{name}`")
    kind, allowed = given.simpleString(), ""
    integral = isinstance(given, T.IntegralType)
    number = isinstance(given, T.NumericType)
    if isinstance(given, T.NullType):
        return F.lit(None).cast(target).alias(name)
    if target == "STRING":
        if isinstance(given, T.StringType) or integral:
            return column.cast("string").alias(name)
        allowed = "string or an integer type (cast a decimal id to BIGINT first: 17850.0 is another id than 17850)"
    elif target == "TIMESTAMP":
        if isinstance(given, T.TimestampType | T.TimestampNTZType | T.DateType | T.StringType):
            moment = F.try_to_timestamp(column) if isinstance(given, T.StringType) else column.cast("timestamp")
            return F.timestamp_millis(F.unix_millis(moment)).alias(name)
        allowed = "timestamp, date or an ISO 8601 string (for epoch numbers use timestamp_seconds(x) or timestamp_millis(x))"
    elif target in ("BIGINT", "INT", "DOUBLE"):
        if number:
            return column.cast(target).alias(name)
        allowed = "a numeric type"
    elif target == "ARRAY<FLOAT>":
        if isinstance(given, T.ArrayType) and isinstance(given.elementType, T.NumericType):
            return column.cast("array<float>").alias(name)
        allowed = "an array of numbers"
    raise DataError(f"table '{table_name}': column '{name}' has type {kind}; allowed: {allowed}")


def _first_reason(*checks: tuple[Column, str]) -> Column:
    return F.coalesce(*(F.when(condition, F.lit(reason)) for condition, reason in checks))


def _empty(name: str) -> Column:
    return F.col(name).isNull() | (F.col(name) == "")


def _not_finite(name: str) -> Column:
    return F.isnan(name) | (F.abs(name) == float("inf"))


def _unparsed(frame: DataFrame, name: str) -> Column:
    """A string was given where no time could be read."""
    if name not in frame.columns or not isinstance(frame.schema[name].dataType, T.StringType):
        return F.lit(False)
    return F.col(name).isNull() & F.get_json_object("_raw", f"$.{name}").isNotNull()


def _wide_hash(names: list[str]) -> Column:
    """128-bit hash of the columns as 32 hex digits: two differently seeded chains; isNull tells (null, 'a') from ('a', null)."""
    columns = [F.col(name) for name in names] + [F.col(name).isNull() for name in names]
    return F.concat(*(F.lpad(F.hex(F.xxhash64(F.lit(seed), *columns)), 16, "0") for seed in (0, 1)))

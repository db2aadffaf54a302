"""Canonical input -> accepted rows and refused rows. Every input row is accepted, an exact duplicate, or refused with a reason.

Enters: the frames of a source adapter. Leaves: `events`, `ads`, `follows`, `users` and `quarantine` rows. A frame that breaks the
contract as a whole (a missing column, a wrong type) is a DataError; a bad row is refused alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import reduce
from operator import add, or_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from .. import canonical
from ..canonical import MALFORMED, quoted
from ..clock import DAY_MS, format_time, parse_time
from ..config import IngestConfig
from ..errors import DataError, nearest
from ..tables import ADS, DERIVED_EVENT_COLUMNS, EVENTS, FOLLOWS, REQUIRED_INPUT_COLUMNS, USERS, Table
from . import reasons
from .content import NO_COUNTRY, as_row, blank, changed_by, content, fields_that_may_miss, given, own_id, wide_hash
from .dwell import bound_dwell, drop_impossible, dwell_from_next, fill_local_time

UNKNOWN_COUNTRY = "unknown"  # the source has countries, but this row has none
FREE_TEXT = "text"  # may be empty: it names nothing
RAW = "_raw"  # the row as quarantine keeps it
FLOAT_MAX = 3.4e38  # training reads float32
EMBEDDING_MAX = 1e12  # its square, and that of a gradient, must fit float32
LAST_START_MS = parse_time("2200-01-01")  # of a flight
FIRST_YEAR_MS, LAST_YEAR_MS = parse_time("0001-01-01"), parse_time("9999-12-31T23:59:59.999")


def id_hash(column: Column) -> Column:
    """Stable signed 64-bit hash of a raw id; null stays null (house rule 1)."""
    return F.when(column.isNotNull(), F.xxhash64(column))


def validate_events(
    frame: DataFrame,
    streams: list[str],
    attributes: Mapping[str, str],
    not_before_ms: int,
    not_after_ms: int,
    ingest: IngestConfig | None = None,
    dimensions: Mapping[str, int] | None = None,
    others: DataFrame | None = None,
) -> DataFrame:
    """Every input event, typed, with the verdict on it; `accepted` and `refused` split it (persist it between the two).

    Of rows with one event_id the first by (known_at, columns without a value, content) stays, equal copies vanish, copies with other
    content are refused; when a copy arrived is not its content, as a log that delivers at least once may deliver late. Dwell and local
    time come as `ingest` wants them; `_dwell_outlier` marks a dwell that was out of its bounds, `_nulled` (ARRAY<STRING>, null for none)
    names the columns whose value cannot be true. dimensions: embedding attribute -> numbers it must have. others: EVENTS among which the
    next event of a row may be. Raises DataError on a missing required column or declared attribute (but for those that `ingest` fills),
    or on a column of the wrong type.
    """
    ingest = ingest or IngestConfig()
    filled = (("dwell_ms",) if ingest.dwell_from_next else ()) + (("utc_offset_minutes",) if ingest.utc_offset_minutes else ())
    required = (*REQUIRED_INPUT_COLUMNS, *(name for name in attributes if name not in filled))
    typed = typed_frame(frame, EVENTS, attributes, DERIVED_EVENT_COLUMNS, required)
    no_country = UNKNOWN_COUNTRY if "country" in frame.columns else NO_COUNTRY
    typed = typed.withColumn("country", F.coalesce("country", F.lit(no_country))).withColumn("_own_id", own_id(typed))
    typed = without_empty(typed)
    names = [name for name, kind in attributes.items() if kind == "categorical" and typed.schema[name].dataType == T.StringType()]
    typed = without_blanks(typed, {"event_id", "country", *_names(EVENTS), *names} - {*REQUIRED_INPUT_COLUMNS, FREE_TEXT})
    typed = typed.withColumns(
        {
            "country": F.coalesce("country", F.lit(no_country)),
            "event_id": F.coalesce("event_id", "_own_id"),
            "known_at": F.greatest("event_time", "arrival_time"),
        }
    )
    late_ms = F.unix_millis("known_at") - F.unix_millis("event_time")
    numeric = [name for name, kind in attributes.items() if kind == "numeric" and name not in EVENTS.column_names]
    embeddings = dict.fromkeys(["media_embedding", *(name for name, kind in attributes.items() if kind == "embedding")])
    reason = first_reason(
        missing("user_id"),
        (F.col("event_time").isNull(), reasons.NO_TIME.of(column="event_time")),
        (F.col("_lost").isNotNull(), F.col("_lost")),
        (F.unix_millis("event_time") < not_before_ms, reasons.TOO_EARLY.of(column="event_time", time=format_time(not_before_ms))),
        (F.unix_millis("known_at") >= not_after_ms, reasons.FUTURE.text),
        *([(late_ms > round(ingest.late_days * DAY_MS), reasons.LATE.of(days=f"{ingest.late_days:g}"))] if ingest.late_days else []),
        missing("source"),
        (~F.col("source").isin(streams), reasons.UNDECLARED.text),
        missing("item_id"),
        (F.col("dwell_ms") < 0, reasons.NEGATIVE_DWELL.text),
        *(check for name in embeddings for check in unusable(name, (dimensions or {}).get(name))),
        *(check for name in ("value", *numeric) for check in not_a_number(name)),
    )
    checked = drop_impossible(typed.withColumn("reason", reason).drop("_lost", "_own_id", MALFORMED), not_before_ms)
    checked = checked.withColumn(RAW, F.when(F.col("reason").isNotNull(), F.col(RAW)))  # JSON of every row would double the shuffle
    checked = fill_local_time(bound_dwell(checked, ingest), ingest)
    # Order and conflicts are those of batches.merge, so that one load and several end alike.
    altered = changed_by(ingest)
    gaps = reduce(add, (given(item).isNull().cast("int") for item in fields_that_may_miss(checked, altered)), F.lit(0))
    checked = checked.withColumn("_content", content(checked, altered))
    dwell = ("dwell_ms",) if "dwell_ms" in altered else ()
    validated = _first_per_key(
        checked, ("event_id",), ("known_at", gaps, "_content", "arrival_time", *dwell, FREE_TEXT), reasons.OTHER_CONTENT, "source", dwell
    )
    conflicting = F.when(F.col("reason").isNotNull(), as_row(checked.columns, ingest))
    validated = validated.withColumn(RAW, F.coalesce(RAW, conflicting))
    there = None if others is None else others.withColumn("_content", content(others, altered))
    validated = dwell_from_next(validated, ingest, there)
    validated = validated.withColumn("_dwell_outlier", F.col("_dwell_outlier") & F.col("reason").isNull())
    return validated.select(
        "*",
        F.concat(F.lit("events/"), F.coalesce("source", F.lit("?"))).alias("_from"),
        F.to_date("known_at").alias("known_date"),
        F.xxhash64("event_id").alias("event_hash"),
        id_hash(F.col("item_id")).alias("item_hash"),
    )


def without_blanks(frame: DataFrame, names: Collection[str]) -> DataFrame:
    """A text of white space alone is missing: null, in the text columns of these names."""
    texts = [item.name for item in frame.schema.fields if isinstance(item.dataType, T.StringType) and item.name in names]
    given = {name: F.when(~blank(quoted(name)), quoted(name)) for name in texts}
    return frame.withColumns(given) if given else frame


def without_empty(typed: DataFrame) -> DataFrame:
    """An embedding without a number is none."""
    names = [item.name for item in typed.schema.fields if isinstance(item.dataType, T.ArrayType)]
    given = {name: F.when(F.size(quoted(name)) > 0, quoted(name)) for name in names}
    return typed.withColumns(given) if given else typed


def validate_ads(frame: DataFrame) -> DataFrame:
    """Every input ad with the verdict on it: one row per (ad_id, active_from) stays, other content for that key is refused."""
    typed = without_empty(
        without_blanks(typed_frame(frame, ADS, {}, ("ad_hash",), ("ad_id", "account_id", "active_from")), ("category_id",))
    )
    start, end = F.unix_millis("active_from"), F.unix_millis("active_to")
    reason = first_reason(
        missing("ad_id"),
        missing("account_id"),
        (F.col("active_from").isNull(), reasons.NO_TIME.of(column="active_from")),
        (F.col("_lost").isNotNull(), F.col("_lost")),
        (F.col("active_to") <= F.col("active_from"), reasons.ENDS_FIRST.text),
        (~start.between(FIRST_YEAR_MS, LAST_START_MS), reasons.OUT_OF_YEARS.of(column="active_from", years="1 to 2200")),
        (~end.between(FIRST_YEAR_MS, LAST_YEAR_MS), reasons.OUT_OF_YEARS.of(column="active_to", years="1 to 9999")),
        *unusable("media_embedding"),
        *(check for name in ("bid", "value") for check in not_a_number(name)),
    )
    checked = typed.withColumn("reason", reason).drop("_lost", MALFORMED)
    checked = checked.withColumn("_content", wide_hash([quoted(name) for name in typed.columns if not name.startswith("_")]))
    validated = _first_per_key(checked, ADS.key, (), reasons.OTHER_FLIGHT)
    return validated.select("*", F.lit(ADS.name).alias("_from"), id_hash(F.col("ad_id")).alias("ad_hash"))


def validate_follows(frame: DataFrame, not_after_ms: int | None = None) -> DataFrame:
    """Every input follow with the verdict on it: of equal pairs the earliest stays, later ones vanish. It may be older than any event."""
    typed = typed_frame(frame, FOLLOWS, {}, (), FOLLOWS.column_names)
    since = F.unix_millis("event_time")
    reason = first_reason(
        (_blank_or_null("src_user_id") | _blank_or_null("dst_user_id"), reasons.USER_EMPTY.text),
        (F.col("event_time").isNull(), reasons.NO_TIME.of(column="event_time")),
        (F.col("_lost").isNotNull(), F.col("_lost")),
        (F.col("src_user_id") == F.col("dst_user_id"), reasons.ITSELF.text),
        (since < FIRST_YEAR_MS, reasons.OUT_OF_YEARS.of(column="event_time", years="1 to 9999")),
        *([(since >= not_after_ms, reasons.FOLLOW_FUTURE.text)] if not_after_ms is not None else []),
    )
    checked = typed.withColumn("reason", reason).withColumn("_content", F.lit("")).drop("_lost", MALFORMED)
    return _first_per_key(checked, FOLLOWS.key, ("event_time",), reasons.OTHER_CONTENT).withColumn("_from", F.lit(FOLLOWS.name))


def validate_users(frame: DataFrame, attributes: Mapping[str, str], not_after_ms: int) -> DataFrame:
    """Every input row of users with the verdict on it: one per (user_id, known_at) stays, other content for that key is refused.

    Of two contents the one with the least hash stays. attributes: the declared ones, name -> kind. Raises DataError on a missing column or
    one of the wrong type.
    """
    typed = typed_frame(frame, USERS, attributes, (), (*USERS.column_names, *attributes))
    of_kind = {kind: [name for name, its in attributes.items() if its == kind] for kind in ("categorical", "numeric", "embedding")}
    typed = without_empty(without_blanks(typed, of_kind["categorical"]))
    since = F.unix_millis("known_at")
    reason = first_reason(
        missing("user_id"),
        (F.col("known_at").isNull(), reasons.NO_TIME.of(column="known_at")),
        (F.col("_lost").isNotNull(), F.col("_lost")),
        (since < FIRST_YEAR_MS, reasons.OUT_OF_YEARS.of(column="known_at", years="1 to 9999")),
        (since >= not_after_ms, reasons.USER_FUTURE.text),
        *(check for name in of_kind["embedding"] for check in unusable(name)),
        *(check for name in of_kind["numeric"] for check in not_a_number(name)),
    )
    checked = typed.withColumn("reason", reason).drop("_lost", MALFORMED)
    checked = checked.withColumn("_content", wide_hash([quoted(name) for name in typed.columns if not name.startswith("_")]))
    return _first_per_key(checked, USERS.key, (), reasons.OTHER_DECLARATION).withColumn("_from", F.lit(USERS.name))


def accepted(validated: DataFrame) -> DataFrame:
    """The rows that stay, in the table's columns."""
    helpers = [name for name in validated.columns if name.startswith("_")]
    return validated.where("reason IS NULL AND _n = 1").drop(*helpers, "reason")


def refused(validated: DataFrame) -> DataFrame:
    """The refused rows as QUARANTINE holds them, without run_id: source, reason, row."""
    return validated.where("reason IS NOT NULL").select(F.col("_from").alias("source"), "reason", F.col(RAW).alias("row"))


def conflict(source: Column, other: Column) -> Column:
    """Why an event of the stream `source` is refused whose id an event of the stream `other` has already."""
    elsewhere = F.concat(F.lit(reasons.OTHER_STREAM.of(stream="")), other)
    return F.when(source == other, F.lit(reasons.OTHER_CONTENT.text)).otherwise(elsewhere)


def _first_per_key(
    checked: DataFrame,
    key: tuple[str, ...],
    order: tuple[str | Column, ...],
    other: reasons.Reason,
    stream: str | None = None,
    also: tuple[str, ...] = (),
) -> DataFrame:
    """Number the unrefused rows of a key (_n = 1 stays) and refuse those whose content differs from the first's.

    also: columns that are not in `_content`, and differ where both rows have a value.
    """
    ordered = Window.partitionBy(*key, F.col("reason").isNull()).orderBy(*order, "_content")
    ranked = checked.select(
        "*",
        F.row_number().over(ordered).alias("_n"),
        F.first("_content").over(ordered).alias("_kept"),
        *([F.first(stream).over(ordered).alias("_kept_stream")] if stream else []),
        *(F.first(name).over(ordered).alias(f"_kept_{name}") for name in also),
    )
    other_value = reduce(or_, (F.coalesce(F.col(name) != F.col(f"_kept_{name}"), F.lit(False)) for name in also), F.lit(False))
    differs = F.col("reason").isNull() & ((F.col("_content") != F.col("_kept")) | other_value)
    why = conflict(F.col(stream), F.col("_kept_stream")) if stream else F.lit(other.text)
    return ranked.withColumn("reason", F.when(differs, why).otherwise(F.col("reason")))


def typed_frame(
    frame: DataFrame, of: Table, attributes: Mapping[str, str], derived: tuple[str, ...], required: tuple[str, ...]
) -> DataFrame:
    """The table's columns and the declared attributes in their types, missing optional ones as null.

    Also MALFORMED, `_lost` (why a value could not be read; null where all could) and RAW (the row as JSON; of a row of quarantine as it
    is there).
    """
    given = {item.name: item.dataType for item in frame.schema.fields}
    targets = canonical.types(of, attributes, derived)
    for name in required:
        if name not in given:
            raise DataError(f"table '{of.name}' lacks the column '{name}'{nearest(name, given)}")
    columns, lost = [], []
    for name, kind in targets.items():
        if name not in given:
            columns.append(F.lit(None).cast(kind).alias(name))
            continue
        if not canonical.fits(name, given[name], kind):
            raise DataError(f"table '{of.name}': {canonical.problem(name, given[name], kind)}")
        columns.append(canonical.read_as(name, given[name], kind).alias(name))
        nothing = canonical.lost(name, given[name], kind)
        if nothing is not None and name not in ("event_time", "active_from", "known_at"):  # these have a reason that covers null too
            lost.append(F.when(nothing, F.lit(_why_lost(name, kind))))
    broken = F.col(MALFORMED) if MALFORMED in given else F.lit(None).cast("string")
    if RAW in given:
        return frame.select(*columns, broken.alias(MALFORMED), _any(lost).alias("_lost"), RAW)
    raw = F.struct(
        *(
            F.make_valid_utf8(quoted(name).cast("string")).alias(name) if isinstance(kind, T.StringType | T.BinaryType) else quoted(name)
            for name, kind in given.items()
            if name != MALFORMED
        )
    )
    row = F.coalesce(broken, F.to_json(raw)).alias(RAW)
    return frame.select(*columns, broken.alias(MALFORMED), _any(lost).alias("_lost"), row)


def _any(texts: list[Column]) -> Column:
    return F.coalesce(*texts) if texts else F.lit(None).cast("string")


def _why_lost(name: str, kind: str) -> str:
    if kind == "STRING":
        return reasons.NOT_UTF8.of(column=name)
    return reasons.UNPARSABLE.of(column=name) if kind == "TIMESTAMP" else reasons.TOO_LARGE.of(column=name, type=kind)


def _names(of: Table) -> list[str]:
    """The table's text columns."""
    return [column.name for column in of.columns if column.type == "STRING"]


def first_reason(*checks: tuple[Column, str | Column]) -> Column:
    """The reason of the first condition that holds; of a line that cannot be read, that alone."""
    every = ((F.col(MALFORMED).isNotNull(), reasons.MALFORMED.text), *checks)
    return F.coalesce(*(F.when(condition, reason if isinstance(reason, Column) else F.lit(reason)) for condition, reason in every))


def _blank_or_null(name: str) -> Column:
    return F.col(name).isNull() | blank(F.col(name))


def missing(name: str) -> tuple[Column, str]:
    return _blank_or_null(name), reasons.EMPTY.of(column=name)


def not_a_number(name: str) -> list[tuple[Column, str]]:
    size = F.abs(quoted(name))
    return [
        (F.isnan(quoted(name)) | (size == float("inf")), reasons.NOT_FINITE.of(column=name)),
        (size > FLOAT_MAX, reasons.BEYOND_FLOAT.of(column=name)),
    ]


def unusable(name: str, width: int | None = None) -> list[tuple[Column, str]]:
    """What training could not read of an embedding."""
    checks = [
        (F.exists(quoted(name), lambda x: x.isNull() | F.isnan(x)), reasons.BROKEN_EMBEDDING.of(column=name)),
        (F.exists(quoted(name), lambda x: F.abs(x) > EMBEDDING_MAX), reasons.ABSURD_EMBEDDING.of(column=name)),
    ]
    return checks + ([(F.size(quoted(name)) != width, reasons.EMBEDDING_LENGTH.of(column=name, width=width))] if width else [])

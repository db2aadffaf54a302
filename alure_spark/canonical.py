"""Which types a canonical column takes, and how a value becomes the column's own type: the contract between sources and ingestion.

Nothing here fails on a row: a value that its type cannot hold becomes null, and `lost` says where that happened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from .tables import ATTRIBUTE_TYPES, Table

FIRST_MILLIS = -(2**63) // 1000  # the first of 2^63 microseconds floors to this millisecond, which cannot be told in microseconds
REPLACEMENT = "\ufffd"  # what decoders put in the place of bytes that are no text
MALFORMED = "_malformed"  # of a frame: JSON that tells which line of the source could not be read; null for every other row
NUMBERS = ("BIGINT", "INT", "DOUBLE")
# Columns that name something: joined by, grouped by or compared with. A name that is only nearly right is wrong.
IDENTIFYING = frozenset(
    ("event_id", "user_id", "source", "item_id", "account_id", "impression_id", "country", "ad_id", "src_user_id", "dst_user_id")
)
ALLOWED = {
    "STRING": "string or an integer type (cast a decimal id to BIGINT first: 17850.0 is another id than 17850)",
    "TIMESTAMP": "timestamp, date or an ISO 8601 string (for epoch numbers use timestamp_seconds(x) or timestamp_millis(x))",
    "ARRAY<FLOAT>": "an array of numbers",
} | dict.fromkeys(NUMBERS, "a numeric type")
# A text of nothing else is missing: white space, zero-width characters, byte order marks.
WHITE = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
DAYS_OF_TEXT = r"^\s*[+-]?\d{4}"  # Spark reads '10:00' as ten o'clock of the day on which it is read


def quoted(name: str) -> Column:
    """The column of exactly that name, whatever characters are in it."""
    return F.col("`" + name.replace("`", "``") + "`")


def types(of: Table, attributes: Mapping[str, str], without: Collection[str] = ()) -> dict[str, str]:
    """Canonical column -> DDL type: those of the table, then the declared attributes (name -> kind)."""
    found = {column.name: column.type for column in of.columns if column.name not in without}
    return found | {name: ATTRIBUTE_TYPES[kind][0] for name, kind in attributes.items() if name not in found}


def fits(name: str, given: T.DataType, target: str) -> bool:
    """Whether a column of this type may be given for the canonical one."""
    if isinstance(given, T.NullType):
        return True
    if target == "STRING":
        whole = isinstance(given, T.IntegralType) or (isinstance(given, T.DecimalType) and given.scale == 0)
        flag = isinstance(given, T.BooleanType) and name not in IDENTIFYING
        return whole or flag or isinstance(given, T.StringType | T.BinaryType)
    if target == "TIMESTAMP":
        return isinstance(given, T.TimestampType | T.TimestampNTZType | T.DateType | T.StringType)
    if target in NUMBERS:
        return isinstance(given, T.NumericType | T.BooleanType)
    return isinstance(given, T.ArrayType) and isinstance(given.elementType, T.NumericType)


def problem(name: str, given: T.DataType, target: str) -> str:
    """What is wrong with a type that does not fit, as the end of a sentence."""
    return f"column '{name}' has type {given.simpleString()}; allowed: {ALLOWED[target]}"


def read_as(name: str, given: T.DataType, target: str) -> Column:
    """The column in its canonical type; null where the type cannot hold the value. Times have millisecond content.

    A text that is not UTF-8 has REPLACEMENT for its broken bytes.
    """
    column = quoted(name)
    if isinstance(given, T.NullType):
        return F.lit(None).cast(target)
    if target == "STRING":
        text = column.cast("string")
        return F.make_valid_utf8(text) if isinstance(given, T.StringType | T.BinaryType) else text
    if target == "TIMESTAMP":
        if isinstance(given, T.StringType):
            moment = F.when(column.rlike(DAYS_OF_TEXT), F.try_to_timestamp(column))
        else:
            moment = column.try_cast("timestamp")
        millis = F.unix_millis(moment)
        return F.timestamp_millis(F.when(millis > FIRST_MILLIS, millis))
    if target == "ARRAY<FLOAT>":
        return column.cast("array<float>")
    return column.try_cast(target)


def lost(name: str, given: T.DataType, target: str) -> Column | None:
    """Where something was there and nothing came out; None for a pair of types where that cannot be. NaN is nothing."""
    column = quoted(name)
    if target == "STRING":
        may_be_broken = name in IDENTIFYING and isinstance(given, T.StringType | T.BinaryType)
        text = column.cast("string")
        # Spark's readers of CSV and JSON put the sign themselves where bytes are no text.
        broken = ~F.is_valid_utf8(text) | F.contains(text, F.lit(REPLACEMENT)) | F.contains(text, F.lit("\0"))
        return broken if may_be_broken else None
    floating = isinstance(given, T.FractionalType)
    narrower = target == "INT" and isinstance(given, T.LongType)
    if target in ("BIGINT", "INT") and (floating or narrower):
        there = column.isNotNull() & ~F.isnan(column) if isinstance(given, T.FloatType | T.DoubleType) else column.isNotNull()
        return there & read_as(name, given, target).isNull()
    if target == "TIMESTAMP" and not isinstance(given, T.NullType):
        there = F.btrim(column, F.lit(WHITE)) != "" if isinstance(given, T.StringType) else column.isNotNull()
        return there & read_as(name, given, target).isNull()
    return None


def carried(name: str, given: Collection[T.DataType], target: str | None) -> Column:
    """The column in a type that holds what any table gives for it, where tables give it in different ones.

    Texts and times travel as text, numbers as BIGINT or DOUBLE: `read_as` reads the same from it, and a refused row is kept as it was.
    """
    column = quoted(name)
    if target in NUMBERS:
        return column.cast("bigint" if all(isinstance(one, T.IntegralType) for one in given) else "double")
    return column.cast("array<double>" if target == "ARRAY<FLOAT>" else "string")

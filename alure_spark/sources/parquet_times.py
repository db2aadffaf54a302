"""Parquet files whose times are in nanoseconds, which is how pandas writes them and what Spark does not read.

Spark can be told to read such a column as BIGINT, but then not which columns these were: the footer of one file says that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ..errors import DataError
from ..session import PARTITION_TEXTS, session_settings

NANOS_AS_LONG = "spark.sql.legacy.parquet.nanosAsLong"
REMEDY = "write them in microseconds (pandas: to_parquet(..., coerce_timestamps='us', allow_truncated_timestamps=True))"
TAIL = 1 << 20  # bytes in which a footer usually fits


def read(spark: SparkSession, path: str, options: Mapping[str, str]) -> DataFrame:
    """The files with every time column as TIMESTAMP in microseconds; times inside structs and arrays stay BIGINT nanoseconds.

    Spark's setting is needed for the schema only, and is put back. Raises DataError that names the columns where it cannot be set, or where
    files differ.
    """
    times: list[str] = []
    try:
        times = nanosecond_columns(_footer(spark, path, options))
        with session_settings(spark, {NANOS_AS_LONG: "true", **PARTITION_TEXTS}):
            _check_all_files(spark, path, options)
            schema = spark.read.options(**options).parquet(path).schema
    except DataError:
        raise
    except Exception as error:
        named = f" ({', '.join(times)})" if times else ""
        raise DataError(f"table {path} (parquet) has times in nanoseconds{named}, which cannot be read here: {REMEDY}") from error
    frame = spark.read.schema(schema).options(**options).parquet(path)
    known = [name for name in times if name in frame.columns]
    return (
        frame.withColumns({name: F.expr(f"timestamp_micros(`{name.replace('`', '``')}` div 1000)") for name in known}) if known else frame
    )


def _check_all_files(spark: SparkSession, path: str, options: Mapping[str, str]) -> None:
    """Raises DataError where a time is in nanoseconds in one file and not in another: as BIGINT the other's would be of 1970."""
    try:
        spark.read.options(**{**options, "mergeSchema": "true"}).parquet(path).schema  # noqa: B018  (looks at the footers of all files)
    except Exception as error:
        found = str(error) if "CANNOT_MERGE" in str(error) else ""  # it holds the first two schemas that differ
        while (outer := re.sub(r"(: \w+)<[^<>]*>", r"\1", found)) != found:
            found = outer  # without what is inside of columns
        named = (re.findall(rf"([^`,<]+)`?: {kind}", found) for kind in ("BIGINT", "TIMESTAMP"))
        numbers, times = ({name.strip().casefold() for name in names} for names in named)
        if mixed := ", ".join(sorted(numbers & times)):
            raise DataError(f"table {path} (parquet) has files with times in nanoseconds ({mixed}) and others: {REMEDY}") from error


def nanosecond_columns(footer: bytes) -> list[str]:
    """The columns (not those inside others) whose times are in nanoseconds, from the end of a Parquet file."""
    schema = pq.ParquetFile(pa.BufferReader(footer)).schema
    columns = [schema.column(index) for index in range(len(schema))]
    outer = [column for column in columns if column.path == column.name]
    return [column.name for column in outer if json.loads(column.logical_type.to_json()).get("timeUnit") == "nanoseconds"]


def _footer(spark: SparkSession, path: str, options: Mapping[str, str]) -> bytes:
    """The end of the smallest file, with its footer: read by Spark, which has the right to the storage. Raises DataError."""
    kept = {key: value for key, value in options.items() if key.lower() in ("pathglobfilter", "recursivefilelookup", "basepath")}
    files = spark.read.format("binaryFile").options(**kept).load(path).where("length > 0")
    first = files.select("path", "length").orderBy("length", "path").first()
    if first is None:
        raise DataError(f"table {path} (parquet) has no file")
    one = files.where((F.col("length") == first["length"]) & (F.col("path") == first["path"]))  # only the length is asked before reading

    def tail(size: int) -> bytes:
        return bytes(one.select(F.substring("content", -size, size)).collect()[0][0])

    found = tail(TAIL)
    size = int.from_bytes(found[-8:-4], "little") + 8
    return found if size <= len(found) else tail(size)

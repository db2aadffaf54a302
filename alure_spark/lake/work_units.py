"""Work units whose results are files: what a killed run has finished, the next one does not compute again.

A unit's file appears as a whole or not at all, and two attempts at one unit write the same. The folder, which driver and executors
reach, holds results of one set of inputs only (resumable_folder).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from ..paths import literal

SUFFIX = ".parquet"


def unit_name(kind: Column, country: Column, *numbers: Column) -> Column:
    """Name of a unit; a country may be named in any way, so its hash stands for it."""
    return F.concat_ws("-", kind, F.substring(F.sha2(country, 256), 1, 16), *(number.cast("string") for number in numbers))


def unfinished(units: DataFrame, folder: str) -> DataFrame:
    """The rows whose `unit` has no result yet."""
    done = sorted(path.name.removesuffix(SUFFIX) for path in Path(folder).glob(f"*{SUFFIX}"))
    if not done:
        return units
    return units.join(F.broadcast(units.sparkSession.createDataFrame([(unit,) for unit in done], "unit string")), "unit", "left_anti")


def keep(folder: str, unit: str, rows: pa.Table) -> pa.Table:
    """Write the result of a unit; returns a row that says so: unit, rows."""
    handle, unfinished_path = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as sink:
        pq.write_table(rows, sink)
    os.rename(unfinished_path, os.path.join(folder, unit + SUFFIX))
    return pa.table({"unit": [unit], "rows": pa.array([rows.num_rows], pa.int64())})


def made_once(folder: str, unit: str, make: Callable[[], pa.Table]) -> pa.Table:
    """The result of a unit: read where a run has left it, else made and kept."""
    try:
        with open(os.path.join(folder, unit + SUFFIX), "rb") as source:
            return pq.read_table(source)
    except FileNotFoundError:
        rows = make()
        keep(folder, unit, rows)
        return rows


def kept(spark: SparkSession, folder: str, kind: str, schema: str) -> DataFrame:
    """The rows of all units of a kind."""
    if not any(Path(folder).glob(f"{kind}-*{SUFFIX}")):
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).option("pathGlobFilter", f"{kind}-*{SUFFIX}").parquet(literal(folder))

"""python -m tests.chaos.edges_writer ADDRESS ROOT AS_OF_MS ROWS MODE [GATE]: publish some user_edges through a Spark Connect server.

MODE: replace or append. With GATE, a path, its only task makes GATE.begun and goes on once GATE.go is there: so a test decides what
happens between the begin of a write and its commit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.config import Config, LakeConfig, SparkConfig, StreamConfig
from alure_spark.errors import AlureError
from alure_spark.lake import Lake, as_of_scope
from alure_spark.session import get_session


def gated(frame: DataFrame, gate: str) -> DataFrame:
    """The frame, whose task says that it has begun, and then waits to be let go on."""

    def wait(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        Path(f"{gate}.begun").touch()
        while not Path(f"{gate}.go").exists():
            time.sleep(0.05)
        yield from batches

    return frame.mapInArrow(wait, frame.schema)


def main(address: str, root: str, as_of_ms: str, rows: str, mode: str, gate: str = "") -> None:
    spark = get_session(SparkConfig(remote=address, shuffle_partitions=1))
    lake, scope = Lake(spark, LakeConfig(root)), as_of_scope(int(as_of_ms))
    edges = spark.range(0, int(rows), 1, 1).select(
        F.col("id").cast("string").alias("src_user_id"), F.lit("b").alias("dst_user_id"), F.lit("ALL").alias("country"),
        F.lit("alure").alias("graph"), F.col("id").cast("double").alias("weight"), F.lit(1).alias("rank"),
        F.timestamp_millis(F.lit(int(as_of_ms))).alias("as_of"), F.lit(1).alias("origins"),
    )  # fmt: skip
    with lake.run("build_graph", Config(streams={"purchase": StreamConfig()}), scope) as run:
        run.write("user_edges", gated(edges, gate) if gate else edges, scope, append=mode == "append")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except AlureError as error:
        sys.exit(f"error: {error}")

"""A lake with a few edges: what runs of other processes leave there."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime

from pyspark.sql import functions as F

from alure_spark.config import Config, StreamConfig
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.lake.publishing import _Writer

CONFIG = Config(streams={"purchase": StreamConfig()})


def edges(spark, rows, as_of_ms):
    """`rows` edges of one as_of."""
    return spark.range(rows).select(
        F.col("id").cast("string").alias("src_user_id"), F.lit("b").alias("dst_user_id"), F.lit("ALL").alias("country"),
        F.lit("alure").alias("graph"), F.col("id").cast("double").alias("weight"), F.lit(1).alias("rank"),
        F.timestamp_millis(F.lit(as_of_ms)).alias("as_of"), F.lit(1).alias("origins"),
    )  # fmt: skip


def publish(lake, frame, as_of_ms):
    with lake.run("build_graph", CONFIG, as_of_scope(as_of_ms)) as run:
        run.write("user_edges", frame, as_of_scope(as_of_ms))
    return run


def killed_run(lake, job="build_graph"):
    """A run that said `started` and was killed: what it writes is never published."""
    run = JobRun(lake, job, "conf", "scope")
    lake._record(run, _Writer(datetime.now(UTC), "unknown"), "started", f"{socket.gethostname()} {2**22 + 1} 1")
    return run


def say_started(lake, message, facts, ago_ms=0):
    """A row `started` of another writer."""
    row = lake.runs().where("status = 'started'").limit(1)
    begun = F.timestamp_millis(F.lit(int(time.time() * 1000) - ago_ms))
    known = F.create_map(*(F.lit(part) for item in facts.items() for part in item)) if facts else F.lit(None)
    planted = row.withColumns(
        {"run_id": F.lit("other"), "message": F.lit(message), "started": begun, "facts": known.cast("map<string,string>")}
    )
    planted.write.format("delta").mode("append").option("userMetadata", "other").save(f"{lake.root}/runs")

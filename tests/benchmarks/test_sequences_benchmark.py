"""The benchmark of the sequences runs, finds all methods equal, and says so when one is not."""

from __future__ import annotations

import json

import pytest
from pyspark.sql import functions as F

from benchmarks import sequences


@pytest.mark.slow
def test_the_benchmark_writes_its_ratios_and_every_method_gives_our_rows(spark, tmp_path):
    sequences.main(["--scale", "0.002", "--repetitions", "1", "--results", str(tmp_path)])
    written = json.loads((tmp_path / "sequences.json").read_text())
    keys = {"vs_spark_sort_array", "vs_duckdb", "vs_polars", "fused_dwell_cost", "incremental_day_cost"}
    assert set(written["ratios"]) == keys | {f"skewed_{key}" for key in keys}
    assert {row["road"] for row in written["rows"]} >= {"ours", "duckdb", "polars", "day", "tried: arrays made in Arrow"}
    assert 0 < written["size"]["small"]["touched_share"] < 1


def test_a_method_with_other_rows_stops_the_benchmark(spark, tmp_path):
    rows = spark.range(3).select(F.col("id").cast("string").alias("user_id"), F.lit(1).alias("x"), F.lit(2).alias("as_of"))
    for name in ("ours", "fused", "spark_sort_array", "duckdb.parquet", "polars.parquet", "day"):
        rows.write.parquet(f"{tmp_path}/{name}")
    assert sequences.require_equal(spark, tmp_path) == 3
    rows.withColumn("x", F.lit(7)).write.mode("overwrite").parquet(f"{tmp_path}/polars.parquet")
    with pytest.raises(AssertionError, match="polars.parquet has other rows than ours"):
        sequences.require_equal(spark, tmp_path)

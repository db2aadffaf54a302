"""The month of the scale benchmark, small: late events are there, repeated deliveries are not, and a stopped run goes on."""

from __future__ import annotations

import json

import pytest
from pyspark.sql import functions as F

from alure_spark.config import load
from alure_spark.lake import Lake
from benchmarks import scale


@pytest.mark.slow
def test_three_days_end_in_the_table_of_what_arrived(spark, tmp_path):
    arguments = ["--folder", str(tmp_path), "--events", "6000", "--users", "300", "--results", str(tmp_path)]
    scale.main([*arguments, "--days", "2"])
    scale.main([*arguments, "--events", "9000", "--days", "3"])
    rows = json.loads((tmp_path / "scale.json").read_text())["rows"]
    assert [row["road"] for row in rows] == ["day 1", "day 2", "day 3"]
    assert "apply_retention seconds_wall" in rows[2]
    raw = spark.read.parquet(str(tmp_path / "raw")).where("day < date'2025-01-04'")
    events = Lake(spark, load(str(tmp_path / "scale.yml"), [f"lake.root={tmp_path}/lake"]).lake).read("events")
    assert raw.count() > raw.select("event_id").distinct().count() == events.count() == rows[2]["events"]
    late = events.where(F.unix_millis("arrival_time") - F.unix_millis("event_time") > 43_200_000).count()
    assert 0.005 < late / events.count() < 0.03

"""The job: the planted dwell law is found again, days add up, and segments hold when they should."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta

import numpy as np
import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual
from scipy.stats import spearmanr

from alure_spark.clock import parse_time
from alure_spark.config import DynamixConfig, LakeConfig, build, load
from alure_spark.dynamix import report
from alure_spark.dynamix import segments as segments_of_dynamix
from alure_spark.dynamix.counting import days_to_count
from alure_spark.dynamix.segments import segments, switches
from alure_spark.dynamix.statistics import new_statistics
from alure_spark.errors import ConfigError, LakeError
from alure_spark.lake import JobRun, Lake, as_of_scope
from alure_spark.running import Context, open_context, run_jobs
from alure_spark.sources.synthetic.options import WorldOptions
from alure_spark.sources.synthetic.truth import truth_users
from alure_spark.tables import EVENTS
from jobs import correlate_dwell, ingest_events
from tests.conftest import ROOT, overrides

WORLD = ("source.options.users=80", "source.options.events_per_user=1200", "source.options.ads_per_organic=1", "source.options.days=14")
LAST = "2025-01-19T00:00:00Z"
# A conversion belongs to its impression however late it comes, so that the planted slope is what is measured.
WHOLE = ("dynamix.conversion_sources=[conversion]", "dynamix.window_seconds=3600", "dynamix.shrinkage=false")


def do(folder, as_of, *more, job=correlate_dwell.JOB):
    context = open_context(load(ROOT / "conf" / "test.yml", [*overrides(folder, *WORLD, *more), f"time.as_of={as_of}"]))
    run_jobs(context, [job], "dynamix")
    return context


@pytest.fixture(scope="module")
def world(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dwell")
    do(folder, LAST, job=ingest_events.JOB)
    return folder


def copied(world, tmp_path):
    shutil.copytree(world / "lake", tmp_path / "lake")
    return tmp_path


@pytest.mark.slow
def test_the_planted_dwell_law_is_found_again_and_better_with_more_impressions(spark, world, tmp_path):
    context = do(copied(world, tmp_path), LAST, *WHOLE)
    options = build(WorldOptions, context.config.source.options, "source.options")
    slope = {row["user_id"]: row["dwell_slope"] for row in truth_users(spark, options).collect()}
    rows = context.lake.read("dwell_correlations").where("surface = 'ALL' AND corr IS NOT NULL").collect()
    assert len(rows) > 70
    truth, corr = np.array([slope[row["user_id"]] for row in rows]), np.array([row["corr"] for row in rows])
    error = np.array([row["std_error"] for row in rows])
    assert spearmanr(truth, corr).statistic > 0.5
    sure = error < np.median(error)
    assert spearmanr(truth[sure], corr[sure]).statistic > spearmanr(truth[~sure], corr[~sure]).statistic
    # Impressions that happen to lie near another one's conversion dilute it, for all alike.
    assert corr[truth > 0].mean() > 0.1
    assert abs(corr[truth == 0].mean()) < 0.4 * corr[truth > 0].mean(), "whose conversions do not follow dwell"
    named = {row["user_id"]: row["segment"] for row in context.lake.read("user_segments").where("surface = 'ALL'").collect()}
    active = np.array([named[row["user_id"]] == "active" for row in rows])
    assert (truth[active] > 0).mean() > (truth[~active] > 0).mean() + 0.2
    metrics = context.tracker.metrics
    assert metrics["correlate_dwell.segment.active"] + metrics["correlate_dwell.segment.passive"] == metrics["correlate_dwell.users"]
    assert "correlate_dwell.switched_share" not in metrics


@pytest.mark.slow
def test_days_add_up_to_one_run_and_a_day_run_twice_is_the_same(world, tmp_path):
    days = ("2025-01-12T00:00:00Z", "2025-01-15T07:30:00Z", LAST)
    stepwise, whole = copied(world, tmp_path / "a"), copied(world, tmp_path / "b")
    for as_of in (*days, *days[1:]):
        context = do(stepwise, as_of)
        assert context.tracker.metrics["correlate_dwell.outliers"] >= 0
    metrics = context.tracker.metrics
    assert 0 <= metrics["correlate_dwell.switched_share"] < 0.9
    reasons = [value for key, value in metrics.items() if key.startswith("correlate_dwell.switched.")]
    assert sum(reasons) == pytest.approx(metrics["correlate_dwell.switched_share"])
    once = do(whole, LAST)
    scope = as_of_scope(once.config.time.as_of_ms)
    for table in ("dwell_correlations", "user_segments"):
        stepped, expected = (lake.read(table).where(scope) for lake in (context.lake, once.lake))
        assertDataFrameEqual(stepped, expected.select(stepped.columns), rtol=0, atol=0)
        assert not stepped.isEmpty()
    with pytest.raises(LakeError, match="run as_ofs in order"):
        do(stepwise, "2025-01-13T00:00:00Z")


FIRST, SECOND, THIRD = (f"2025-01-{day}T00:00:00Z" for day in (12, 13, 14))


def events_of(spark, rows):
    """Rows of `events` from (user, source, moment, dwell)."""
    table = [(f"{user}{source}{at}", user, "ALL", source, dwell, datetime.fromisoformat(at)) for user, source, at, dwell in rows]
    known = spark.createDataFrame(table, "event_id string, user_id string, country string, source string, dwell_ms long, at timestamp")
    null = {column.name: F.lit(None).cast(column.type) for column in EVENTS.columns if column.name not in known.columns}
    moments = {"event_time": F.col("at"), "known_at": F.col("at"), "known_date": F.to_date("at"), "event_hash": F.xxhash64("event_id")}
    return known.withColumns(null | moments).drop("at").coalesce(1)


@pytest.mark.slow
def test_a_day_whose_events_come_in_later_is_counted_again(spark, tmp_path, monkeypatch):
    # Only what is counted: what follows from it takes a minute.
    monkeypatch.setattr(report, "metrics_and_figures", lambda *_: ({}, {}))
    monkeypatch.setattr(segments_of_dynamix, "thresholds", lambda *_: {"ALL": (0.5,), "unknown": (0.5,)})
    write = JobRun.write
    written = ("events", "dwell_statistics")
    monkeypatch.setattr(JobRun, "write", lambda run, name, *more, **how: write(run, name, *more, **how) if name in written else 0)
    lake = Lake(spark, LakeConfig(str(tmp_path)))

    def context(as_of, *more):
        return Context(load(ROOT / "conf" / "test.yml", [f"time.as_of={as_of}", "dynamix.shrinkage=false", *more]), spark, lake, None)

    def correlate(as_of, *more):
        config = context(as_of, *more).config
        with lake.run("correlate_dwell", config, as_of_scope(config.time.as_of_ms)) as run:
            return correlate_dwell.correlate(context(as_of, *more), run).texts

    def days_of(config):
        return days_to_count(JobRun(lake, "correlate_dwell", "", ""), config.dynamix, config.time.as_of_ms)

    def ingest(rows, known_from):
        with lake.run("ingest_events", context(THIRD).config, "true") as run:
            run.write("events", events_of(spark, rows), append=True)
            run.facts["known_from"] = known_from

    # v's late impression enters after its window, on the second day.
    there = [("u", "ad_impression", f"2025-01-{day}T10:00:00Z", 1000 * day) for day in (10, 11, 12, 13)]
    late = [("u", "ad_click", "2025-01-11T10:01:00Z", None), ("v", "ad_impression", "2025-01-11T23:57:00Z", 700)]
    ingest(there, there[0][2])
    assert correlate(FIRST) == correlate(SECOND) == {}
    ingest(late, late[0][2])
    said = correlate(THIRD)["counted_again.txt"]
    assert f"events known from {late[0][2]} on came in after dwell_statistics of {FIRST[:10]} 00:00" in said
    assert "as_ofs counted again: 2;" in said
    first, second, third = map(parse_time, (FIRST, SECOND, THIRD))
    whole = new_statistics(events_of(spark, there + late), context(THIRD).config.dynamix, None, third, (first, second))
    found = lake.read("dwell_statistics")
    assertDataFrameEqual(found, whole.select(found.columns), rtol=0, atol=0)
    assert found.count() == 4
    later = days_of(context("2025-01-15T00:00:00Z").config)
    assert (later.since, later.again) == (third, ()), "once is enough"
    shorter = "dynamix.window_seconds=60"
    said = correlate("2025-01-15T00:00:00Z", shorter)["counted_again.txt"]
    assert f"dynamix had other settings when dwell_statistics of {FIRST[:10]} 00:00" in said
    fourth = parse_time("2025-01-15T00:00:00Z")
    whole = new_statistics(events_of(spark, there + late), context(THIRD, shorter).config.dynamix, None, fourth, (first, second, third))
    assertDataFrameEqual(lake.read("dwell_statistics"), whole.select(found.columns), rtol=0, atol=0)
    later = days_of(context("2025-01-16T00:00:00Z", shorter).config)
    assert (later.since, later.again) == (fourth, ())


def test_a_part_of_the_day_holds_where_the_user_lives(spark):
    as_of = datetime(2025, 1, 16, 10)
    rows = [("u", "ALL", "00-12", 0.9, 330), ("u", "ALL", "12-24", 0.1, 330), ("v", "ALL", "00-12", None, -480)]
    correlated = spark.createDataFrame(rows, "user_id string, surface string, window string, corr double, utc_offset_minutes int")
    config = DynamixConfig(day_windows=2)
    found = segments(correlated, {"ALL": (0.5,)}, config, int((as_of - datetime(1970, 1, 1)).total_seconds() * 1000)).collect()
    held = {(row["user_id"], row["segment"], row["valid_from"], row["valid_to"]) for row in found}
    # u lives 5:30 ahead: local midnight is 18:30 UTC, local noon 6:30.
    assert held == {
        ("u", "passive", as_of, datetime(2025, 1, 16, 18, 30)),
        ("u", "active", datetime(2025, 1, 16, 18, 30), datetime(2025, 1, 17, 6, 30)),
        ("u", "passive", datetime(2025, 1, 17, 6, 30), as_of + timedelta(days=1)),
        ("v", "passive", as_of, datetime(2025, 1, 16, 20)),
        ("v", "passive", datetime(2025, 1, 17, 8), as_of + timedelta(days=1)),
    }
    all_day = segments(correlated.withColumn("window", F.lit("00-24")), {"ALL": (0.5,)}, DynamixConfig(valid_hours=6), 0).collect()
    assert {(row["valid_from"], row["valid_to"]) for row in all_day} == {(datetime(1970, 1, 1), datetime(1970, 1, 1, 6))}


def test_why_users_switched_is_said_of_each(spark):
    """corr, n_1, n_0 then and now; the threshold went from .4 to .5."""
    then_and_now = {
        "new": ((None, 0, 5), (0.9, 2, 5)),
        "gone": ((0.9, 2, 5), (None, 0, 5)),
        "border": ((0.45, 3, 5), (0.46, 4, 5)),
        "border_left_alone": ((0.45, 3, 5), (0.45, 3, 5)),
        "own": ((0.1, 3, 5), (-0.8, 4, 5)),
        "others": ((0.6, 3, 5), (0.3, 3, 5)),
        "stays": ((0.6, 3, 5), (0.7, 9, 5)),
        "never": ((None, 0, 5), (None, 0, 6)),
        "at_the_border": ((0.4, 1, 1), (0.5, 1, 2)),
    }
    schema = "user_id string, surface string, window string, corr double, n_1 long, n_0 long"
    then, now = (
        spark.createDataFrame(
            [(user, "ALL", "00-24", *pair[place]) for user, pair in then_and_now.items()] + [(extra, "ALL", "00-24", 0.9, 1, 1)], schema
        )
        for place, extra in ((0, "left"), (1, "came"))
    )
    rows = switches(now, then, {"ALL": (0.5,)}, {"ALL": (0.4,)}).collect()
    assert {row["user_id"]: row["why"] for row in rows if row["switched"]} == {
        "new": "newly known", "gone": "no longer known", "border": "threshold moved", "border_left_alone": "threshold moved",
        "own": "new impressions", "others": "population moved",
    }  # fmt: skip
    assert {row["user_id"] for row in rows if not row["switched"]} == {"stays", "never", "at_the_border"}
    assert all(row["why"] is None for row in rows if not row["switched"])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"window_seconds": 0}, "dynamix.window_seconds"),
        ({"window_seconds": -5}, "dynamix.window_seconds"),
        ({"buffer_seconds": 301}, "dynamix.buffer_seconds is 301; allowed: 0 to dynamix.window_seconds"),
        ({"dwell_min_ms": 0}, "dynamix.dwell_min_ms"),
        ({"day_windows": 5}, "dynamix.day_windows"),
        ({"threshold": "gap"}, "dynamix.threshold"),
        ({"threshold": "given"}, "at least one"),
        ({"thresholds": (0.2, 0.1)}, "rising"),
        ({"active_share": 1.0}, "between 0 and 1"),
        ({"valid_hours": 25}, "dynamix.valid_hours"),
    ],
)
def test_a_wrong_setting_is_named(wrong, says):
    with pytest.raises(ConfigError, match=says):
        DynamixConfig(**wrong)

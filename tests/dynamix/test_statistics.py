"""DynamiX statistics against plain loops: which impressions count as converted, and what is summed of them, day by day or at once."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F

from alure_spark.config import ALL_SURFACES, DynamixConfig
from alure_spark.dynamix.correlation import Sums
from alure_spark.dynamix.segments import segments
from alure_spark.dynamix.statistics import SUMS, converted, labelled_dwell, merged, new_statistics
from tests import oracle

MINUTE, DAY = 60_000, 86_400_000
CONFIG = DynamixConfig(window_seconds=300, buffer_seconds=60, dwell_min_ms=250, dwell_max_ms=100_000)
SCHEMA = "user_id string, source string, known_at timestamp, surface string, utc_offset_minutes int, dwell_ms long"
START = 20_000 * DAY  # an ordinary day, so that local times are not before the epoch

# Times on a grid of half minutes, so that events meet both ends of the window; sources that count and one that does not.
event = st.fixed_dictionaries({
    "user": st.integers(0, 2), "source": st.sampled_from(["ad_impression", "ad_impression", "ad_click", "conversion", "organic"]),
    "at": st.integers(0, 40), "surface": st.sampled_from(["feed", "reels", None]),
    "offset": st.sampled_from([None, 0, 330, -480]), "dwell": st.sampled_from([None, 1, 249, 250, 1000, 15_000, 100_000, 100_001]),
})  # fmt: skip
log = st.lists(event, max_size=14)


def moment(ms):
    return datetime.fromtimestamp(ms / 1000, UTC)


def frame(spark, logs):
    """All logs in one frame, kept apart by the user ids; and the rows as the loops read them."""
    rows = [
        {**one, "user_id": f"l{number}u{one['user']}", "ms": START + one["at"] * MINUTE // 2}
        for number, log in enumerate(logs)
        for one in log
    ]
    tuples = [(row["user_id"], row["source"], moment(row["ms"]), row["surface"], row["offset"], row["dwell"]) for row in rows]
    return spark.createDataFrame(tuples, SCHEMA), rows


def loop_converted(rows, row):
    """Equation (1) with the buffer of section 3.3, both ends included."""
    return any(
        other["user_id"] == row["user_id"]
        and other["source"] in CONFIG.conversion_sources
        and row["ms"] - 60_000 <= other["ms"] <= row["ms"] + 300_000
        for other in rows
    )


def expected_sums(rows, as_of, config=CONFIG):
    sums, outliers = defaultdict(lambda: [0] * 6), defaultdict(int)
    of_user = defaultdict(list)
    for row in rows:
        of_user[row["user_id"]].append(row)
    for row in rows:
        if row["source"] != "ad_impression" or row["dwell"] is None or row["ms"] + 300_000 >= as_of:
            continue
        hour = ((row["ms"] + (row["offset"] or 0) * MINUTE) % DAY) // 3_600_000
        width = 24 // config.day_windows
        window = f"{hour // width * width:02d}-{hour // width * width + width:02d}"
        key = (row["user_id"], row["surface"] or "unknown", window)
        if not 250 <= row["dwell"] <= 100_000:
            outliers[key] += 1
            sums[key][0] += 0
            continue
        value, place = math.log(row["dwell"]), 0 if loop_converted(of_user[row["user_id"]], row) else 1
        for kind, added in enumerate((1, math.floor(value * 1e6 + 0.5), math.floor(value * value * 1e6 + 0.5))):
            sums[key][2 * kind + place] += added
    return sums, outliers


def as_dict(statistics):
    return {(row["user_id"], row["surface"], row["window"]): [row[name] for name in SUMS] for row in statistics.collect()}


def arrays(rows):
    """(user codes, times) of the impressions and of the conversions."""
    sides = []
    for sources in (("ad_impression",), CONFIG.conversion_sources):
        mine = [row for row in rows if row["source"] in sources]
        sides += [np.array([int(row["user_id"][-1]) for row in mine], np.int64), np.array([row["ms"] for row in mine], np.int64)]
    return sides


@given(log)
def test_labels_are_those_of_a_plain_loop(events):
    rows = [{**one, "user_id": f"u{one['user']}", "ms": START + one["at"] * MINUTE // 2} for one in events]
    expected = [loop_converted(rows, row) for row in rows if row["source"] == "ad_impression"]
    assert converted(*arrays(rows), CONFIG).tolist() == expected


def test_both_ends_of_the_window_count_and_what_lies_beyond_does_not():
    gaps = np.array([-60_000, -60_001, 0, 300_000, 300_001])
    users, at = np.arange(5), np.full(5, START)
    assert converted(users, at, users, at + gaps, CONFIG).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("windows", [1, 4])
def test_sums_are_those_of_a_plain_loop(spark, windows):
    config = replace(CONFIG, day_windows=windows)
    events, rows = frame(spark, oracle.cases_of(log, 200))
    as_of = START + 17 * MINUTE
    statistics = new_statistics(events, config, None, as_of)
    sums, outliers = expected_sums(rows, as_of, config)
    assert as_dict(statistics) == dict(sums)
    assert {(r["user_id"], r["surface"], r["window"]): r["outliers"] for r in statistics.where("outliers > 0").collect()} == dict(outliers)


def test_labelled_dwell_is_of_the_impressions_that_are_summed(spark):
    events, rows = frame(spark, oracle.cases_of(log, 200))
    as_of = START + 17 * MINUTE
    found = sorted((row["user_id"], row["log_dwell"], row["converted"]) for row in labelled_dwell(events, CONFIG, as_of).collect())
    shown = [row for row in rows if row["source"] == "ad_impression" and row["dwell"] is not None and row["ms"] + 300_000 < as_of]
    expected = sorted(
        (row["user_id"], math.log(row["dwell"]), loop_converted(rows, row)) for row in shown if 250 <= row["dwell"] <= 100_000
    )
    assert [(user, flag) for user, _, flag in found] == [(user, flag) for user, _, flag in expected]
    assert np.allclose([x for _, x, _ in found], [x for _, x, _ in expected])


@pytest.mark.parametrize("cuts", [(), (3,), (1, 2, 9, 9.5, 16), (5.5, 5.75, 12)])
def test_any_split_of_the_time_gives_the_sums_of_one_run(spark, cuts):
    """Minutes at which a day ends; impressions whose window is open there enter on the next day."""
    events, _ = frame(spark, oracle.cases_of(log, 150))
    end = START + 25 * MINUTE
    edges = [None, *(START + round(cut * MINUTE) for cut in cuts), end]
    days = [
        new_statistics(events, CONFIG, since, until).withColumn("as_of", F.timestamp_millis(F.lit(until)))
        for since, until in itertools.pairwise(edges)
    ]
    together = days[0]
    for day in days[1:]:
        together = together.unionByName(day)
    whole = merged(new_statistics(events, CONFIG, None, end).withColumn("as_of", F.timestamp_millis(F.lit(end))))
    assert as_dict(merged(together)) == as_dict(whole)
    surfaces = {surface for _, surface, _ in as_dict(whole)}
    assert surfaces == {ALL_SURFACES, "feed", "reels", "unknown"}
    total, by_surface = (
        np.sum([row for (_, surface, _), row in as_dict(whole).items() if (surface == ALL_SURFACES) is everywhere], axis=0).tolist()
        for everywhere in (True, False)
    )
    assert total == by_surface


def test_a_user_of_very_many_events_is_no_range_of_pairs(spark):
    """10^5 impressions, one a second, and a conversion every ten: 10^9 pairs, but one sort."""
    impressions = spark.range(100_000).select(
        (F.col("id") * 1000).alias("ms"), F.lit("ad_impression").alias("source"), F.lit(500).alias("dwell")
    )
    conversions = spark.range(10_000).select((F.col("id") * 10_000 + 7).alias("ms"), F.lit("conversion"), F.lit(None).cast("int"))
    events = impressions.union(conversions).select(
        F.lit("heavy").alias("user_id"), "source", F.timestamp_millis(F.col("ms") + START).alias("known_at"),
        F.lit("feed").alias("surface"), F.lit(0).alias("utc_offset_minutes"), F.col("dwell").cast("long").alias("dwell_ms"),
    )  # fmt: skip
    config = replace(CONFIG, window_seconds=2, buffer_seconds=1)
    (row,) = new_statistics(events, config, None, START + 2 * DAY).collect()
    # Of ten seconds the one of the conversion, the one after and the one before it; the last one asks for a conversion that there is not.
    assert row["n_1"] == 30_000 - 1
    assert row["n_1"] + row["n_0"] == 100_000


def test_request_time_sums_are_the_batchs(spark):
    """Sums.add, which a server calls for every event, ends in the integers that Spark adds up."""
    random = np.random.default_rng(5)
    dwell, label, user = random.integers(250, 100_000, 500), random.random(500) < 0.3, random.integers(0, 7, 500)
    rows = [
        (f"u{u}", "ad_impression", moment(START + i * 3_600_000), "feed", 0, int(d))
        for i, (u, d) in enumerate(zip(user, dwell, strict=True))
    ]
    rows += [(f"u{u}", "conversion", moment(START + i * 3_600_000 + 1), None, None, None) for i, u in enumerate(user) if label[i]]
    batch = as_dict(new_statistics(spark.createDataFrame(rows, SCHEMA), CONFIG, None, START + 600 * 3_600_000))
    sums = Sums(*(np.zeros(7, np.int64) for _ in range(6)))
    for part in np.array_split(np.arange(500), 9):
        sums = sums.add(user[part], dwell[part], label[part])
    at_request = [sums.n_1, sums.n_0, sums.sum_1, sums.sum_0, sums.square_1, sums.square_0]
    assert {int(key[0][1:]): row for key, row in batch.items()} == {u: [int(values[u]) for values in at_request] for u in range(7)}


def planted(spark, rows):
    """(surface, hour since START, offset) of impressions of one user, of a second each."""
    tuples = [("u", "ad_impression", moment(START + round(hour * 60) * MINUTE), surface, offset, 1000) for surface, hour, offset in rows]
    return spark.createDataFrame(tuples, SCHEMA)


def test_a_surface_that_is_called_all_counts_once_in_all_surfaces(spark):
    events = planted(spark, [("ALL", 1, 0), ("ALL", 2, 0), ("feed", 3, 0), (None, 4, 0)])
    statistics = new_statistics(events, CONFIG, None, START + DAY).withColumn("as_of", F.timestamp_millis(F.lit(START + DAY)))
    earlier = statistics.withColumn(
        "surface", F.when(F.col("surface") == "unknown", "ALL").otherwise(F.col("surface"))
    )  # of a release before
    for days in (statistics, earlier):
        found = [(row["surface"], row["n_0"]) for row in merged(days).collect()]
        assert sorted(found) == [("ALL", 4), ("feed", 1), ("unknown", 3)]


def test_the_local_time_of_a_user_is_that_of_the_last_impression_in_all_parts_of_the_day(spark):
    """The user flew: else two parts of the day would hold at once, and at other times none."""
    config = replace(CONFIG, day_windows=2)
    events = planted(spark, [("feed", 2, 330), ("reels", 14, 330), ("feed", 26, -480), ("feed", 40, 330), ("reels", 43, -480)])
    days = [
        new_statistics(events, config, since, until).withColumn("as_of", F.timestamp_millis(F.lit(until)))
        for since, until in ((None, START + DAY), (START + DAY, START + 2 * DAY))
    ]
    assert {row["utc_offset_minutes"] for row in days[0].collect()} == {330}
    assert {row["utc_offset_minutes"] for row in days[1].collect()} == {-480}
    sums = merged(days[0].unionByName(days[1]))
    assert {(row["surface"], row["utc_offset_minutes"]) for row in sums.collect()} == {(one, -480) for one in ("ALL", "feed", "reels")}
    as_of = START + 2 * DAY
    held = segments(sums.withColumn("corr", F.lit(0.1)), dict.fromkeys(("ALL", "feed", "reels"), (0.5,)), config, as_of).collect()
    for surface in ("ALL", "feed", "reels"):
        periods = sorted((row["valid_from"], row["valid_to"]) for row in held if row["surface"] == surface)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(periods)), "no moment is in two parts of the day"
    everywhere = [row["valid_to"] - row["valid_from"] for row in held if row["surface"] == "ALL"]
    assert sum(everywhere, timedelta()) == timedelta(days=1)


@pytest.mark.parametrize("since", [None, START + MINUTE])
def test_days_that_are_counted_in_one_pass_are_the_days_one_by_one(spark, since):
    events, _ = frame(spark, oracle.cases_of(log, 100))
    ends = [START + round(minutes * MINUTE) for minutes in (6, 9.5, 14, 26)]
    names = ("user_id", "surface", "window", *SUMS, "outliers", "utc_offset_minutes", "as_of", "entered_from")
    at_once = new_statistics(events, CONFIG, since, ends[-1], ends[:-1]).select(*names)
    one_by_one = [new_statistics(events, CONFIG, begin, end).select(*names) for begin, end in itertools.pairwise([since, *ends])]
    found, expected = (sorted(map(str, rows)) for rows in (at_once.collect(), [row for day in one_by_one for row in day.collect()]))
    assert found == expected
    assert len({row["as_of"] for row in at_once.collect()}) == len(ends)

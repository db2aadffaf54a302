"""The funnel after retrieval: pools of equal size, what a history may know, a ranker that finds a planted law, and what is shown."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from alure_spark.analysis.funnel import History, fill_pool, fit_ranker, logged_impressions, read_history, show
from alure_spark.config import LabelConfig
from alure_spark.errors import DataError

LABELS = LabelConfig()
EVENTS = "user_id string, source string, item_id string, category_id string, impression_id string, known_at timestamp"
ADS = "ad_id string, account_id string, category_id string, active_from timestamp, bid double, value double"


def at(ms):
    return datetime.fromtimestamp(ms / 1000, UTC)


def test_a_pool_takes_the_best_of_each_source_in_turn_and_no_ad_twice():
    first, second, third = {"u": ["a", "b", "c", "d"]}, {"u": ["b", "e"], "v": ["x"]}, {"w": []}
    assert fill_pool([first, second, third], 4) == {"u": ["a", "b", "e", "c"], "v": ["x"], "w": []}
    assert fill_pool([second, first], 100)["u"] == ["b", "a", "e", "c", "d"]
    assert fill_pool([first, first], 2)["u"] == ["a", "b"]


def frame(spark, rows):
    """Events that happened when they were known."""
    events = spark.createDataFrame([(*row[:-1], at(row[-1])) for row in rows], EVENTS)
    return events.withColumns({"event_time": F.col("known_at"), "event_hash": F.xxhash64("source", "item_id", "impression_id", "known_at")})


@pytest.fixture(scope="module")
def world(spark):
    """Two users, two ads; what happens at 100 is the future of a history at 100."""
    rows = [
        ("u", "ad_impression", "p", "c1", "i1", 10), ("u", "ad_click", "p", "c1", "i1", 20), ("u", "conversion", "p", "c1", "i1", 99),
        ("v", "ad_impression", "p", "c1", "i2", 30), ("v", "ad_impression", "q", "c2", "i3", 40), ("v", "organic", "x", "c2", None, 50),
        ("v", "ad_click", "q", "c2", "i3", 100), ("v", "conversion", "q", "c2", "i3", 101), ("w", "ad_impression", "q", "c2", "i4", 120),
    ]  # fmt: skip
    events = frame(spark, rows).cache()
    ads = [
        ("p", "b1", "c1", at(0), 1.0, 10.0), ("p", "b1", "c1", at(5), 2.0, 20.0), ("q", "b2", "c2", at(0), None, None)
    ]  # fmt: skip
    vectors = [("u", [1.0, 0.0]), ("v", [0.0, 1.0])]
    return events, spark.createDataFrame(ads, ADS), spark.createDataFrame(vectors, "user_id string, embedding array<float>")


def test_a_history_knows_what_was_known_and_nothing_later(world):
    history = read_history(*world, LABELS, 100)
    counts = history.ads[["impressions", "clicks", "conversions"]]
    assert counts.loc["p"].tolist() == [2, 1, 1]
    assert counts.loc["q"].tolist() == [1, 0, 0], "the click at 100 is not known before 100"
    assert history.ads.loc["p", "bid"] == 2, "of the latest flight"
    assert history.interest.to_dict() == {("u", "c1"): 3, ("v", "c1"): 1, ("v", "c2"): 2}
    assert history.affinity(np.array(["u", "v", "stranger", "u"], object), np.array(["p", "p", "p", "q"], object)).tolist() == [1, 0, 0, 0]
    later = read_history(*world, LABELS, 101)
    assert later.ads.loc["q", ["clicks", "conversions"]].tolist() == [1, 0]
    assert later.affinity(np.array(["v"], object), np.array(["q"], object)).tolist() == [1]
    with pytest.raises(DataError, match="no user embeddings"):
        read_history(world[0], world[1], world[2].where("false"), LABELS, 100)


def test_logged_impressions_carry_the_responses_known_by_the_end(world):
    rows = logged_impressions(world[0], LABELS, 30, 101)
    assert rows[["impression_id", "user_id", "ad_id", "clicked", "converted"]].to_numpy().tolist() == [
        ["i2", "v", "p", 0, 0],
        ["i3", "v", "q", 1, 0],
    ]


def test_one_click_on_a_request_of_three_ads_is_a_click_on_one_of_them_and_of_one_user(spark):
    rows = [("u", "ad_impression", ad, None, "request", 10) for ad in "pqr"] + [("v", "ad_impression", "q", None, "request", 10)]
    rows += [
        ("u", "ad_click", "q", None, "request", 20),
        ("u", "conversion", "z", None, "request", 30),
        ("v", "ad_impression", "q", None, "", 9),
    ]
    found = logged_impressions(frame(spark, rows), LABELS, 0, 100)
    assert found[["user_id", "ad_id", "clicked", "converted"]].to_numpy().tolist() == [
        ["u", "p", 0, 0], ["u", "q", 1, 0], ["u", "r", 0, 0], ["v", "q", 0, 0],
    ]  # fmt: skip


def test_a_response_counts_within_the_window_of_its_label(spark):
    hour = 3_600_000
    labels = LabelConfig(click_window_hours=1, conversion_window_hours=8.2)  # 8.2 hours are 29,519,999.999999996 ms in floating point
    rows = [("u", "ad_impression", ad, None, f"i{ad}", 0) for ad in "pqr"]
    rows += [("u", "ad_click", "p", None, "ip", hour), ("u", "conversion", "p", None, "ip", 29_520_000)]
    rows += [("u", "ad_click", "q", None, "iq", hour + 1), ("u", "conversion", "q", None, "iq", 29_520_001)]
    found = logged_impressions(frame(spark, rows), labels, 0, 10 * 24 * hour)
    assert found[["ad_id", "clicked", "converted"]].to_numpy().tolist() == [["p", 1, 1], ["q", 0, 0], ["r", 0, 0]]


def planted(seed, n=4000):
    """Ads of 20 qualities, users of 2 tastes; a click needs both. (history, logged impressions)"""
    random = np.random.default_rng(seed)
    ads = [f"a{i:02d}" for i in range(40)]
    quality = np.linspace(-2, 1, 40)
    taste = random.integers(0, 2, 200)
    shown = 500
    history = History(
        ads=pd.DataFrame(
            {"account_id": ads, "category_id": [f"c{i % 2}" for i in range(40)], "bid": 1.0, "value": 5.0, "impressions": shown,
             "clicks": (shown / (1 + np.exp(-quality))).round(), "conversions": 10}, index=pd.Index(ads, name="ad_id"),
        ),
        users=pd.DataFrame({"impressions": 20, "clicks": 2}, index=[f"u{i}" for i in range(200)]),
        interest=pd.Series(
            [9 if taste[i] == c else 1 for i in range(200) for c in (0, 1)],
            pd.MultiIndex.from_tuples([(f"u{i}", f"c{c}") for i in range(200) for c in (0, 1)], names=["user_id", "category_id"]),
        ),
        user_ids=pd.Index([f"u{i}" for i in range(200)]),
        embeddings=np.eye(2, dtype=np.float32)[taste],
        ad_vectors=np.eye(2, dtype=np.float32)[np.arange(40) % 2],
    )  # fmt: skip
    user, ad = random.integers(0, 200, n), random.integers(0, 40, n)
    odds = quality[ad] + 2.0 * (taste[user] == ad % 2) - 1
    clicked = (random.random(n) < 1 / (1 + np.exp(-odds))).astype(float)
    logged = pd.DataFrame({"user_id": [f"u{i}" for i in user], "ad_id": [ads[i] for i in ad], "clicked": clicked})
    return history, logged.assign(converted=clicked * (random.random(n) < 0.3)), taste


def test_the_ranker_finds_the_planted_law_and_shows_what_it_says():
    history, logged, taste = planted(1)
    ranker = fit_ranker(history, logged)
    pools = {user: [f"a{i:02d}" for i in range(40)] for user in history.user_ids[:50]}
    shown = show(pools, history, ranker, pre_ranked=25, k=5)
    for number, user in enumerate(pools):
        mine = [int(ad[1:]) for ad in shown[user]]
        assert mine == sorted(mine, reverse=True), "better ads first"
        assert all(ad % 2 == taste[number] for ad in mine), "of the user's taste"
        assert min(mine) >= 29


def test_what_pre_ranking_leaves_out_is_never_shown_and_a_small_pool_is_shown_as_a_whole():
    history, logged, taste = planted(2)
    ranker = fit_ranker(history, logged)
    liked, other = f"a{taste[0]:02d}", f"a{39 - taste[0]:02d}"  # the other is the better ad, of the other taste
    pool = {"u0": [liked, other], "empty": []}
    assert other not in show(pool, history, ranker, pre_ranked=1, k=5)["u0"]
    assert set(show(pool, history, ranker, pre_ranked=9, k=5)["u0"]) == set(pool["u0"])
    assert show(pool, history, ranker, pre_ranked=9, k=5)["empty"] == []


def test_a_ranker_needs_both_kinds_of_impressions():
    history, logged, _ = planted(3, 100)
    with pytest.raises(DataError, match="0 were converted"):
        fit_ranker(history, logged.assign(converted=0.0))

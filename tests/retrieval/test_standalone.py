"""The search of standalone retrieval, beside a plain walk over all ads, and what it adds to the candidates of a user."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from alure_spark.config import RetrievalConfig, StandaloneConfig
from alure_spark.retrieval.candidates import ad_candidates
from alure_spark.retrieval.standalone import Standalone, best_ads, shown_ads

DAY = 86_400_000
AS_OF = 1_500_000_000_000


def walk(query, places, vectors, own, most):
    """Places by inner product (rounded to 1e-6), ties by place, without the user's own."""
    products = np.einsum("nd,d->n", vectors.astype(float), query.astype(float)).round(6)
    scored = [(-product, int(place)) for product, place in zip(products, places, strict=True)]
    return [place for _, place in sorted(scored) if place not in set(own.tolist())][:most]


@pytest.mark.parametrize("ads", [1, 7, 300])
def test_the_search_gives_what_a_walk_over_all_ads_gives(ads):
    random = np.random.default_rng(ads)
    vectors = random.normal(size=(ads, 8)).astype(np.float32) * 3
    vectors[random.random(ads) < 0.3] = vectors[0]  # many ads that the model cannot tell apart
    places = np.sort(random.choice(2 * ads, ads, replace=False)).astype(np.int32)
    queries = random.normal(size=(40, 8)).astype(np.float32)
    queries[3:6] = queries[0]
    own = [random.choice(2 * ads, random.integers(0, ads + 1), replace=False).astype(np.int32) for _ in queries]
    for most in (1, 5, 400):
        row, place = best_ads(queries, places, vectors, own, most)
        for number, query in enumerate(queries):
            assert place[row == number].tolist() == walk(query, places, vectors, own[number], most)


def test_nobody_and_nothing_to_search():
    nothing = np.zeros((0, 4), np.float32)
    assert not len(best_ads(np.ones((2, 4), np.float32), np.zeros(0, np.int32), nothing, [np.zeros(0, np.int32)] * 2, 3)[0])
    assert not len(best_ads(nothing, np.arange(3, dtype=np.int32), np.ones((3, 4), np.float32), [], 3)[0])


def ago(days):
    return datetime(1970, 1, 1) + timedelta(milliseconds=AS_OF - days * DAY)


@pytest.fixture(scope="module")
def world(spark):
    """a0 to a5 of account b; u0 has a neighbor, u1 none and lives in Y. a4 is over, a3 was shown in Y only, a5 nowhere yet."""
    edges = spark.createDataFrame(
        [("u0", "v", 0.5, "X", 1)], "src_user_id string, dst_user_id string, weight double, country string, origins int"
    )
    rows = [("v", "ad_click", 1, "a1", "X"), ("u0", "ad_click", 1, "a0", "X"), ("v", "ad_impression", 2, "a2", "X")]
    rows += [("u1", "ad_impression", 2, "a3", "Y"), ("u1", "ad_impression", 3, "a1", "Y"), ("v", "ad_impression", -1, "a3", "X")]
    events = spark.createDataFrame(
        [(user, source, ago(age), ad, "b", country) for user, source, age, ad, country in rows],
        "user_id string, source string, known_at timestamp, item_id string, account_id string, country string",
    )
    ads = spark.createDataFrame(
        [(f"a{number}", "b", ago(5), ago(1) if number == 4 else None) for number in range(6)],
        "ad_id string, account_id string, active_from timestamp, active_to timestamp",
    )
    users = spark.createDataFrame([("u0", "X", [1.0]), ("u1", "Y", [1.0])], "user_id string, country string, vector array<float>")
    # Inner products with (1, 1): a0 the largest, then a1, .. ; a9 is in no flight.
    vectors = spark.createDataFrame(
        [(f"a{number}", [5.0 - number, 0.5]) for number in (0, 1, 2, 3, 4, 5, 9)], "ad_id string, vector array<float>"
    )
    shown = shown_ads(events, ["ad_impression", "ad_click"], AS_OF)
    config = RetrievalConfig(account_weights={}, half_life_days=1e9)

    def doubled(numbers):
        """A head that makes of the user's one number a query of two."""
        return np.concatenate([numbers, numbers], axis=1)

    def retrieved(**more):
        standalone = Standalone(users, vectors, shown, doubled, StandaloneConfig(head="linear", weight=0.3))
        candidates = ad_candidates(edges, events, ads, replace(config, **more), AS_OF, standalone)
        return {row["user_id"]: row for row in candidates.collect()}

    return retrieved


def test_it_is_one_more_origin_of_candidates_with_a_reason_of_its_own(world):
    rows = world()
    assert rows["u0"]["ad_id"] == ["a1", "a2", "a5"], "a0 is the user's own, a3 was shown in Y only, a4 is over, a9 is no ad"
    assert rows["u0"]["reason"] == ["ad+standalone", "standalone", "standalone"]
    assert rows["u0"]["graphs"] == [1 | 8, 8, 8]
    assert rows["u0"]["neighbours"] == [1, 0, 0], "a head is no neighbor"
    assert rows["u0"]["score"] == pytest.approx([0.5 + 0.3, 0.15, 0.1], abs=1e-6), "a neighbor and the head, then the head alone"
    assert rows["u1"]["ad_id"] == ["a1", "a3", "a5"], "nobody is near, and what was shown in X only is not for Y"
    assert rows["u1"]["country"] == "Y"
    assert rows["u1"]["reason"] == ["standalone"] * 3


def test_a_quota_limits_what_it_alone_leads_to(world):
    rows = world(quota={"standalone": 1})
    assert [rows[user]["ad_id"] for user in ("u0", "u1")] == [["a1", "a2"], ["a1"]], "what a neighbor leads to as well does not count"

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import strategies as st

from alure_spark.config import RetrievalConfig
from alure_spark.retrieval.candidates import ad_candidates, explode_candidates, serving_candidates
from tests import oracle

DAY = 86_400_000
AS_OF = 1_500_000_000_000
CONFIG = RetrievalConfig(
    cap=3, event_weights={"ad_click": 1.0, "conversion": 2.0}, account_weights={"ad_click": 0.1, "purchase": 0.05}, half_life_days=7,
    max_engagements_per_user=2,
)  # fmt: skip

event = st.fixed_dictionaries({
    "user": st.integers(0, 3), "source": st.sampled_from(["ad_click", "conversion", "purchase", "ad_impression"]),
    "age": st.integers(-2, 20), "ad": st.integers(0, 5),
})  # fmt: skip
ad = st.fixed_dictionaries({"account": st.integers(0, 2), "start": st.integers(-1, 5), "length": st.sampled_from([None, 1, 5])})
edge = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.9, 0.5, 0.25, 0.0, -0.1]), st.integers(1, 7))
case = st.fixed_dictionaries(
    {
        "events": st.lists(event, max_size=12),
        "ads": st.lists(ad, max_size=6),
        "edges": st.lists(edge, max_size=8, unique_by=lambda e: e[:2]),
    }
)


def time(epoch_ms):
    return None if epoch_ms is None else datetime(1970, 1, 1) + timedelta(milliseconds=epoch_ms)


def run(spark, cases, config=CONFIG):
    """All cases in one frame, kept apart by the prefix of every id; (edges, events, ads) as the oracle reads them beside it."""
    edges, events, ads = [], [], []
    for number, one in enumerate(cases):
        name = f"c{number}"
        edges += [(f"{name}u{src}", f"{name}u{dst}", weight, origins) for src, dst, weight, origins in one["edges"] if src != dst]
        owners = [row["account"] for row in one["ads"]]
        for place, row in enumerate(one["ads"]):
            start = AS_OF - row["start"] * DAY
            end = None if row["length"] is None else start + row["length"] * DAY
            ads.append({"ad_id": f"{name}a{place}", "account_id": f"{name}b{row['account']}", "from": start, "to": end})
        for row in one["events"]:
            account = f"{name}b{owners[row['ad']]}" if row["ad"] < len(owners) else None
            events.append({
                "user_id": f"{name}u{row['user']}", "source": row["source"], "event_time": AS_OF - row["age"] * DAY, "arrival_time": None,
                "item_id": f"{name}a{row['ad']}", "account_id": account,
            })  # fmt: skip
    spark_edges = spark.createDataFrame(
        [(*row, "X") for row in edges], "src_user_id string, dst_user_id string, weight double, origins int, country string"
    )
    spark_events = spark.createDataFrame(
        [(row["user_id"], row["source"], time(row["event_time"]), row["item_id"], row["account_id"]) for row in events],
        "user_id string, source string, known_at timestamp, item_id string, account_id string",
    )
    spark_ads = spark.createDataFrame(
        [(row["ad_id"], row["account_id"], time(row["from"]), time(row["to"])) for row in ads],
        "ad_id string, account_id string, active_from timestamp, active_to timestamp",
    )
    found = ad_candidates(spark_edges, spark_events, spark_ads, config, AS_OF)
    return found, oracle.candidates(edges, events, ads, config, AS_OF)


CHOOSY = replace(
    CONFIG, cap=4, quota={"alure": 1, "ppr": 0}, excluded_by=("ad_impression",), excluded_ads=("c1a0",), excluded_accounts=("c2b0",)
)


@pytest.mark.parametrize("config", [CONFIG, CHOOSY], ids=["plain", "choosy"])
def test_candidates_agree_with_the_plain_python_oracle_on_hundreds_of_cases(spark, config):
    found, expected = run(spark, oracle.cases_of(case, 300), config)
    rows = {row["user_id"]: row for row in found.collect()}
    assert set(rows) == set(expected)
    for user, ranked in expected.items():
        row = rows[user]
        assert row["ad_id"] == [ad for ad, *_ in ranked], user
        assert row["reason"] == [reason for _, _, reason, *_ in ranked]
        assert all(abs(score - wanted) < 2e-6 for score, (_, wanted, *_) in zip(row["score"], ranked, strict=True))
        assert row["graphs"] == [graphs for *_, graphs, _ in ranked]
        assert row["neighbours"] == [neighbours for *_, neighbours in ranked]


def test_own_ads_inactive_ads_and_the_future_are_never_candidates_and_the_cap_holds(spark):
    click = {"source": "ad_click", "age": 1}
    ads = [{"account": 0, "start": 3, "length": None} for _ in range(5)] + [{"account": 0, "start": 3, "length": 1}]
    events = [
        dict(click, user=0, ad=0),
        dict(click, user=1, ad=0),
        dict(click, user=1, ad=1),
        dict(click, user=1, ad=5),
        dict(click, user=1, ad=2, age=-1),
    ]
    found, _ = run(spark, [{"events": events, "ads": ads, "edges": [(0, 1, 0.5, 1), (2, 1, 0.5, 1)]}])
    rows = {row["user_id"]: row for row in found.collect()}
    assert rows["c0u0"]["ad_id"][0] == "c0a1", "clicked by the neighbour and active"
    assert "c0a0" not in rows["c0u0"]["ad_id"], "own history"
    assert not {"c0a5"} & {ad for row in rows.values() for ad in row["ad_id"]}, "its flight is over"
    assert rows["c0u2"]["reason"][:2] == ["ad+account", "ad+account"]
    assert all(len(row["ad_id"]) <= CONFIG.cap for row in rows.values())
    exploded = explode_candidates(found).where("user_id = 'c0u2'").orderBy("rank").collect()
    assert [row["ad_id"] for row in exploded] == rows["c0u2"]["ad_id"]


def test_what_is_handed_to_serving_is_the_candidates_and_expires(spark):
    click = {"source": "ad_click", "age": 1}
    ads = [{"account": 0, "start": 3, "length": None} for _ in range(3)]
    found, _ = run(spark, [{"events": [dict(click, user=1, ad=0)], "ads": ads, "edges": [(0, 1, 0.5, 5), (0, 3, 0.5, 1), (2, 3, 0.5, 1)]}])
    (row,) = serving_candidates(found, 36).collect()  # the other user has no candidate
    candidates = {user["user_id"]: user for user in found.collect()}["c0u0"]
    assert row["user_id"] == "c0u0"
    assert json.loads(row["candidates"]) == {
        name: candidates[name] for name in ("ad_id", "account_id", "score", "graphs", "neighbours", "reason")
    }
    assert row["expires_at"] - row["as_of"] == timedelta(hours=36)
    assert row["as_of"] == candidates["as_of"]


def test_without_ads_or_clicks_every_user_with_an_edge_has_an_empty_list(spark):
    edges = spark.createDataFrame(
        [("u", "v", 0.5, "X", 1)], "src_user_id string, dst_user_id string, weight double, country string, origins int"
    )
    events = spark.createDataFrame([], "user_id string, source string, known_at timestamp, item_id string, account_id string")
    ads = spark.createDataFrame([], "ad_id string, account_id string, active_from timestamp, active_to timestamp")
    for given_ads in (ads, None):
        (row,) = ad_candidates(edges, events, given_ads, CONFIG, AS_OF).collect()
        assert (row["user_id"], row["ad_id"], row["score"], row["reason"]) == ("u", [], [], [])

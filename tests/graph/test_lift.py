"""Which graph foretells engagements: counted as a plain loop counts, and turned into weights that follow the better graph."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from alure_spark import tables
from alure_spark.config import GraphConfig
from alure_spark.graph.lift import Hits, count_hits, measured_blend, overall

SINCE, UNTIL = 1_000_000, 2_000_000
CONFIG = GraphConfig(graphs=("alure", "bff", "ppr"))


def moment(ms):
    return datetime.fromtimestamp(ms / 1000, UTC)


def world(seed):
    draw = random.Random(seed)
    users = {f"u{i}": draw.choice("AB") for i in range(30)}
    engaged = [(draw.choice(list(users)), f"ad{draw.randint(0, 9)}", draw.randint(0, 2_500_000)) for _ in range(400)]
    engaged += [("u0", "ad1", SINCE), ("u1", "ad2", SINCE - 1), ("u2", "ad3", UNTIL), ("u3", "ad4", UNTIL - 1), ("stranger", "ad5", 5)]
    edges = {(draw.choice(list(users)), draw.choice(list(users)), draw.choice(("alure", "bff"))) for _ in range(200)}
    return users, engaged, sorted((a, b, users[a], graph) for a, b, graph in edges if users[a] == users[b] and a != b)


def loop(users, engaged, edges):
    first = {}
    for user, ad, at in engaged:
        if user in users:
            first[user, ad] = min(at, first.get((user, ad), at))
    had, new, popular = defaultdict(set), defaultdict(set), defaultdict(Counter)
    for (user, ad), at in first.items():
        if at < SINCE:
            had[user].add(ad)
            popular[users[user]][ad] += 1
        elif at < UNTIL:
            new[user].add(ad)
    counted = defaultdict(lambda: [0, 0.0])
    for a, b, country, graph in edges:
        wanted = {ad for ad in new[a] if popular[country][ad]}
        if wanted and had[b]:
            row = counted[country, graph]
            row[0] += len(wanted & had[b])
            row[1] += len(had[b]) * sum(popular[country][ad] for ad in wanted) / sum(popular[country].values())
    return counted


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hits_are_those_of_a_plain_loop(spark, seed):
    users, engaged, edges = world(seed)
    rows = [(a, b, country, graph, 1.0, 1, 1, moment(SINCE)) for a, b, country, graph in edges]
    found = count_hits(
        spark.createDataFrame(rows, tables.USER_EDGES.ddl()),
        spark.createDataFrame([(user, ad, moment(at)) for user, ad, at in engaged], "user_id string, ad_id string, known_at timestamp"),
        spark.createDataFrame(list(users.items()), "user_id string, country string"),
        SINCE,
        UNTIL,
    )
    truth = loop(users, engaged, edges)
    assert {(row.country, row.graph): row.hits for row in found} == {key: hits for key, (hits, _) in truth.items()}
    for row in found:
        assert row.expected == pytest.approx(truth[row.country, row.graph][1], abs=1e-6)


def test_the_blend_follows_the_graph_that_foretells():
    counted = [Hits("A", "alure", 3000, 1000), Hits("A", "bff", 1010, 1000), Hits("A", "ppr", 2000, 1000), Hits("B", "alure", 0, 0.5)]
    weights = measured_blend(counted, CONFIG)
    assert weights["A"]["alure"] == 1
    assert weights["A"]["bff"] == 0, "a lift within two deviations of 1 is none"
    assert 0.4 < weights["A"]["ppr"] < 0.6
    assert weights["B"]["alure"] == pytest.approx(1, abs=0.1), "a country that says little counts as all do"
    own = measured_blend(counted, replace(CONFIG, blend={"alure": 0.5, "bff": 1.0, "ppr": 1.0}, blend_by_country={"B": {"ppr": 0.0}}))
    assert own["A"]["alure"] == 0.5
    assert own["B"]["ppr"] == 0


def test_a_country_may_differ_from_the_others():
    counted = [
        Hits(c, g, hits, 10_000)
        for c, g, hits in (("A", "alure", 30_000), ("A", "bff", 11_000), ("B", "alure", 10_000), ("B", "bff", 20_000))
    ]
    weights = measured_blend(counted, CONFIG)
    assert weights["A"]["alure"] > 10 * weights["A"]["bff"]
    assert weights["B"]["bff"] > 10 * weights["B"]["alure"]


@pytest.mark.parametrize("counted", [[], [Hits("A", "alure", 0, 0)], [Hits("A", "alure", 105, 100), Hits("A", "bff", 80, 100)]])
def test_without_evidence_the_conf_decides(counted):
    assert measured_blend(counted, CONFIG) == {}


def test_all_countries_together_are_summed():
    found = overall([Hits("A", "alure", 1, 2.5), Hits("B", "alure", 3, 0.5), Hits("B", "bff", 1, 1)])
    assert found["alure"].hits == 4
    assert math.isclose(found["alure"].expected, 3.0)

"""BFF, PageRank along follows, and the blend, against plain loops."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime, timedelta

import networkx
import numpy as np
import pytest

from alure_spark import tables
from alure_spark.config import FollowConfig, GraphConfig, PageRankConfig
from alure_spark.errors import ConfigError
from alure_spark.graph.blend import blended_edges
from alure_spark.graph.follows import follow_strengths, followee_edges, pagerank_edges

AS_OF = datetime(2024, 5, 1)
AS_OF_MS = 1_714_521_600_000
CONFIG = GraphConfig(
    graphs=("alure", "bff", "ppr"),
    k2=4,
    follow=FollowConfig(half_life_days=30.0, most_followees=12, hub_followers=10),
    pagerank=PageRankConfig(least_share=1e-7, steps=100),
)


def planted(seed=3):
    """(follows, home): two countries and a few strays; u0 is a hub; late, equal and self follows; n* have no events."""
    random = np.random.default_rng(seed)
    home = {f"u{i}": "A" if i < 30 else "B" for i in range(45)}
    ids = [*home, "n0", "n1", "n2", "lonely0", "lonely1"]
    follows = {}
    for _ in range(320):
        a, b = random.choice(len(ids) - 2, 2)
        follows[ids[a], ids[b]] = AS_OF - timedelta(hours=int(random.integers(-100, 2000)))
    for i in range(1, 25):
        follows[f"u{i}", "u0"] = AS_OF - timedelta(days=i)
    for i in range(2, 20):
        follows["u1", f"u{i}"] = AS_OF - timedelta(days=3)  # equal strengths: ties by id
    follows["u5", "u5"] = AS_OF - timedelta(days=1)
    follows["u7", "u8"] = AS_OF  # known at as_of is not before it
    follows["lonely0", "lonely1"] = AS_OF - timedelta(days=1)
    return follows, home


def frames(spark, follows, home):
    rows = [(src, dst, time) for (src, dst), time in follows.items()]
    return spark.createDataFrame(rows, tables.FOLLOWS.ddl()), spark.createDataFrame(list(home.items()), "user_id string, country string")


def strengths_by_loops(follows, home, config):
    """{(country, src, dst): strength} and the home of everybody."""
    of = defaultdict(list)
    for (src, dst), time in follows.items():
        if time < AS_OF and src != dst:
            of[src].append((0.5 ** ((AS_OF - time) / timedelta(days=config.half_life_days)), dst))
    kept = {(src, dst): s for src, mine in of.items() for s, dst in sorted(mine, key=lambda x: (-x[0], x[1]))[: config.most_followees]}
    votes = defaultdict(Counter)
    for pair in kept:
        for me, other in (pair, pair[::-1]):
            if me not in home and other in home:
                votes[me][home[other]] += 1
    where = dict(home) | {user: min(count, key=lambda c: (-count[c], c)) for user, count in votes.items()}
    return {(where[a], a, b): s for (a, b), s in kept.items() if a in where and where.get(b) == where[a]}, where


def bff_by_loops(strengths, home, config):
    follow = config.follow
    followers = Counter((country, b) for country, _, b in strengths)
    value = {key: s / math.sqrt(math.log2(1 + followers[key[0], key[2]])) for key, s in strengths.items()}
    length = defaultdict(float)
    for (country, a, _), v in value.items():
        length[country, a] += v * v
    sources = sorted({key[:2] for key in strengths})
    answers = {}
    for country, a in sources:
        scores = {}
        for b in (user for user, where in home.items() if where == country and user != a):
            shared = sum(
                v * value.get((country, b, c), 0)
                for (where, me, c), v in value.items()
                if where == country and me == a and followers[country, c] <= follow.hub_followers
            )
            score = shared / math.sqrt(length[country, a] * length[country, b]) if shared else 0
            there, back = strengths.get((country, a, b), 0), strengths.get((country, b, a), 0)
            score = round(score + (follow.direct * there + follow.mutual * min(there, back) if there else 0), 6)
            if score > 0:
                scores[b] = score
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[: config.k2]
        if best:
            answers[country, a] = best
    return answers


def as_lists(edges, graph):
    answers = defaultdict(list)
    for row in sorted(edges.collect(), key=lambda row: row["rank"]):
        assert (row["graph"], row["as_of"]) == (graph, AS_OF)
        answers[row["country"], row["src_user_id"]].append((row["dst_user_id"], row["weight"]))
        assert row["rank"] == len(answers[row["country"], row["src_user_id"]])
    return dict(answers)


def assert_same(ours, expected, tolerance):
    assert ours.keys() == expected.keys()
    for key, answer in expected.items():
        assert [w for _, w in ours[key]] == pytest.approx([w for _, w in answer], abs=tolerance), key
        truth = dict(answer)
        worst = min(truth.values())
        for dst, weight in ours[key]:  # whom it names, it names rightly; among near-equal weights another may stand
            assert dst in truth or weight == pytest.approx(worst, abs=tolerance), key


@pytest.fixture(scope="module")
def strengths(spark):
    follows, home = planted()
    return follow_strengths(*frames(spark, follows, home), CONFIG.follow, AS_OF_MS).cache()


def test_strengths_are_those_of_plain_loops(strengths):
    follows, home = planted()
    expected, where = strengths_by_loops(follows, home, CONFIG.follow)
    rows = strengths.collect()
    assert {(r["country"], r["src_user_id"], r["dst_user_id"]): r["strength"] for r in rows} == pytest.approx(expected)
    assert {r["src_user_id"]: r["src_known"] for r in rows} == {a: a in home for _, a, _ in expected}
    assert {"n0", "n1", "n2"} <= where.keys()
    assert "lonely0" not in where
    assert ("A", "u7", "u8") not in expected


def test_bff_is_that_of_plain_loops(strengths):
    follows, home = planted()
    expected = bff_by_loops(strengths_by_loops(follows, home, CONFIG.follow)[0], home, CONFIG)
    ours = as_lists(followee_edges(strengths, CONFIG, AS_OF_MS), "bff")
    assert_same(ours, expected, 2e-6)
    assert any(source.startswith("n") for _, source in ours), "new users have neighbours"
    assert not any(dst.startswith("n") for answer in ours.values() for dst, _ in answer), "and are nobody's"


def test_a_hub_is_not_what_two_share_but_counts_in_their_lengths(spark):
    day = AS_OF - timedelta(days=1)
    home = dict.fromkeys("abcdh", "A")
    follows = {(user, "h"): day for user in "abcd"} | {("a", "b"): day, ("c", "b"): day}
    config = replace(CONFIG, follow=replace(CONFIG.follow, hub_followers=3))
    made = followee_edges(follow_strengths(*frames(spark, follows, home), config.follow, AS_OF_MS), config, AS_OF_MS)
    ours = as_lists(made, "bff")
    expected = bff_by_loops(strengths_by_loops(follows, home, config.follow)[0], home, config)
    assert_same(ours, expected, 2e-6)
    assert dict(ours["A", "a"])["c"] > 0, "they share b"
    assert "d" not in dict(ours["A", "a"]), "the hub alone is nothing to share"


def test_pagerank_is_that_of_networkx(spark, strengths, tmp_path):
    follows, home = planted()
    expected, _ = strengths_by_loops(follows, home, CONFIG.follow)
    ours = as_lists(pagerank_edges(strengths, CONFIG, AS_OF_MS, str(tmp_path)), "ppr")
    answers = {}
    for country in ("A", "B"):
        graph = networkx.DiGraph()
        graph.add_weighted_edges_from((a, b, s) for (where, a, b), s in expected.items() if where == country)
        for me in graph:
            theirs = networkx.pagerank(graph, alpha=1 - CONFIG.pagerank.restart, personalization={me: 1}, tol=1e-12, max_iter=1000)
            others = {user: value for user, value in theirs.items() if user != me and user in home and value > 1e-9}
            best = sorted(others.items(), key=lambda item: (-item[1], item[0]))[: CONFIG.k2]
            if best:
                answers[country, me] = best
    assert ours.keys() == answers.keys()
    for key, best in answers.items():  # networkx lets lost walks begin anew: all of a source's numbers are scaled alike
        scale = best[0][1] / ours[key][0][1]
        assert_same({key: [(dst, scale * weight) for dst, weight in ours[key]]}, {key: best}, 1e-5)
    assert any(source.startswith("n") for _, source in ours)
    assert not any(dst.startswith("n") for answer in ours.values() for dst, _ in answer)


@pytest.mark.parametrize("partitions", [1, 5])
def test_the_same_edges_for_any_partitioning_and_any_names(spark, tmp_path, partitions):
    follows, home = planted(seed=4)
    strange = {"u1": "it's", "u2": "日本", "u3": " ", "u4": "\n", "u6": "", "n1": "🐍"}
    follows = {(strange.get(a, a), strange.get(b, b)): time for (a, b), time in follows.items()}
    home = {strange.get(user, user): f"{country} 'ü\"/.." for user, country in home.items()}
    given = [frame.repartition(partitions) for frame in frames(spark, follows, home)]
    made = follow_strengths(*given, CONFIG.follow, AS_OF_MS)
    expected, _ = strengths_by_loops(follows, home, CONFIG.follow)
    assert_same(as_lists(followee_edges(made, CONFIG, AS_OF_MS), "bff"), bff_by_loops(expected, home, CONFIG), 2e-6)
    ranked = as_lists(pagerank_edges(made, CONFIG, AS_OF_MS, str(tmp_path)), "ppr")
    one = tmp_path / "again"
    one.mkdir()
    assert as_lists(pagerank_edges(made.coalesce(1), CONFIG, AS_OF_MS, str(one)), "ppr") == ranked
    assert {"it's", "日本"} <= {source for _, source in ranked}


def test_no_follows_no_edges(spark, tmp_path):
    follows = spark.createDataFrame([], tables.FOLLOWS.ddl())
    users = spark.createDataFrame([("a", "A")], "user_id string, country string")
    made = follow_strengths(follows, users, CONFIG.follow, AS_OF_MS)
    assert followee_edges(made, CONFIG, AS_OF_MS).isEmpty()
    assert pagerank_edges(made, CONFIG, AS_OF_MS, str(tmp_path)).isEmpty()


EDGES = [  # src, dst, country, graph, weight
    ("a", "b", "A", "alure", 0.9), ("a", "c", "A", "alure", 0.45), ("a", "d", "A", "alure", -0.2),
    ("a", "c", "A", "bff", 0.02), ("a", "e", "A", "bff", 0.01),
    ("a", "e", "A", "ppr", 0.3), ("x", "y", "B", "ppr", 0.1), ("x", "z", "B", "bff", 0.5),
]  # fmt: skip


def blend(spark, config):
    ranked, rows = Counter(), []
    for src, dst, country, graph, weight in EDGES:
        ranked[src, graph] += 1
        rows.append((src, dst, country, graph, weight, ranked[src, graph], tables.GRAPH_BITS[graph], AS_OF))
    made = blended_edges(spark.createDataFrame(rows, tables.USER_EDGES.ddl()), config)
    origins = {(row["src_user_id"], row["dst_user_id"]): row["origins"] for row in made.collect()}
    return as_lists(made, "blend"), origins


def test_the_blend_adds_shares_and_remembers_the_graphs(spark):
    lists, origins = blend(spark, CONFIG)
    assert lists["A", "a"] == [("c", 1.5), ("e", 1.5), ("b", 1.0)]  # ties by id; what is below 0 leads nowhere
    assert lists["B", "x"] == [("y", 1.0), ("z", 1.0)]
    assert origins == {("a", "c"): 3, ("a", "e"): 6, ("a", "b"): 1, ("x", "y"): 4, ("x", "z"): 2}


def test_a_graph_counts_what_its_country_gives_it(spark):
    config = replace(CONFIG, blend={"alure": 2.0, "bff": 1.0, "ppr": 0.0}, blend_by_country={"B": {"ppr": 0.25, "bff": 0.125}})
    lists, origins = blend(spark, config)
    assert lists["A", "a"] == [("b", 2.0), ("c", 2.0), ("e", 0.5)]
    assert lists["B", "x"] == [("y", 0.25), ("z", 0.125)]
    assert origins["a", "e"] == 2, "a graph that counts nothing is no origin"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"graphs": ("alure", "friends")}, "graph.graphs.*alure, bff, ppr"),
        ({"graphs": ()}, "graph.graphs"),
        ({"blend": {"bfff": 1.0}}, "graph.blend.*bfff"),
        ({"blend_by_country": {"US": {"bff": -1.0}}}, "graph.blend_by_country.US.bff"),
    ],
)
def test_a_graph_that_is_not_one_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        replace(CONFIG, **wrong)


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        (FollowConfig, {"hub_followers": 0}), (FollowConfig, {"half_life_days": 0.0}),
        (PageRankConfig, {"restart": 1.0}), (PageRankConfig, {"steps": 0}),
    ],
)  # fmt: skip
def test_dials_out_of_range_are_refused(section, wrong):
    with pytest.raises(ConfigError, match=f"graph.*{next(iter(wrong))}"):
        section(**wrong)

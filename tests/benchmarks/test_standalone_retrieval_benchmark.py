"""The benchmark of standalone retrieval on a planted world, without Spark."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from alure_spark.config import StandaloneConfig
from alure_spark.retrieval.standalone import AdVectors
from alure_spark.training.retrieval_head import Catalogue, Engagements
from benchmarks import standalone_retrieval as benchmark
from benchmarks import standalone_retrieval_page as page

USERS, ADS = 300, 120


def planted(null: bool) -> benchmark.World:
    """Users engage with the ads that are nearest to them, or with any; half of these engagements are to be foretold."""
    random = np.random.default_rng(4)
    users, ads = random.normal(size=(USERS, 4)), random.normal(size=(ADS, 4))
    likes = random.normal(size=(USERS, ADS)) if null else users @ ads.T + random.normal(size=(USERS, ADS)) * 0.3
    liked = np.argsort(-likes, axis=1)[:, :8]
    met, wanted = liked[:, ::2], liked[:, 1::2]
    ids, names = (
        np.array([f"a{number:03}" for number in range(ADS)], object),
        np.array([f"u{number:03}" for number in range(USERS)], object),
    )
    vectors, flat = torch.from_numpy(ads).float(), torch.from_numpy(met.ravel())
    rows = Engagements(torch.from_numpy(users).float().repeat_interleave(4, 0), vectors[flat], flat, torch.arange(4 * USERS))
    catalogue = Catalogue(vectors, torch.arange(ADS), torch.zeros(ADS, dtype=torch.int64), torch.full((ADS,), 2**62))
    everywhere = AdVectors(np.arange(ADS, dtype=np.int32), ads.astype(np.float32), {}, np.ones(ADS, bool))
    space = benchmark.Space(rows, catalogue, names, np.full(USERS, "X"), users.astype(np.float32), everywhere)
    popular = ids[np.argsort(-np.bincount(met.ravel(), minlength=ADS), kind="stable")]
    mine = {name: ids[one].tolist() for name, one in zip(names, met, strict=True)}
    lists = {user: [ad for ad in popular if ad not in own] for user, own in mine.items()}
    later = {name: ids[one].tolist() for name, one in zip(names, wanted, strict=True)}
    nothing: dict[str, list[str]] = {}

    others = {"popularity": lists, "item-kNN": nothing, "user graph": nothing}
    return benchmark.World(ids, mine, later, others, dict.fromkeys(benchmark.READS, space))


@pytest.mark.parametrize("null", [False, True])
def test_a_head_adds_to_popularity_where_users_prefer_ads_and_the_null_adds_nothing(monkeypatch, null):
    monkeypatch.setattr(benchmark, "SEEDS", (7,))
    monkeypatch.setattr(benchmark, "KS", (5, 20))
    monkeypatch.setattr(benchmark, "POOLS", (20,))
    settings = StandaloneConfig(head="linear", epochs=8, learning_rate=0.03)
    rows = [row | {"ads": ADS, "engagements": {"user.embedding": 1}} for row in benchmark.of_world("planted", planted(null), settings, 200)]
    added = {row["source"]: row for row in rows if row["part"] == "added" and row["base"] == "popularity"}
    for source, row in added.items():
        tells = not null and not source.endswith(benchmark.STRANGER)
        assert (row["low"] > 0) == tells, source
    alone = {row["method"]: row for row in rows if row["part"] == "alone"}
    assert (alone["UR, linear"]["recall_20"] > 2 * alone["popularity"]["recall_20"]) != null
    table = page.text({"rows": rows, "size": {"k": [5, 20], "pools": [20]}})
    assert f"| UR, linear | {alone['UR, linear']['recall_5']:.3f} | {alone['UR, linear']['recall_20']:.3f} |" in table


def test_nobody_is_asked_for_itself():
    world = planted(False)
    space = world.spaces["user.embedding"]

    class Itself:
        def query(self, vectors):
            return vectors

    mine, others = (benchmark.head_lists(Itself(), space, world, seed) for seed in (None, 3))
    assert sum(mine[user] == others[user] for user in mine) == 0
    assert all(not set(ads) & set(world.met[user]) for user, ads in others.items()), "its own ads are left out all the same"


def test_item_neighbours_are_those_of_a_plain_walk():
    random = np.random.default_rng(2)
    had = (random.random((20, 9)) < 0.3).astype(float)
    allowed = random.random(9) < 0.8
    lists = benchmark.item_neighbours(sparse.csr_matrix(had), allowed, 4)
    for user in range(20):
        scores = {}
        for ad in np.flatnonzero(allowed & (had[user] == 0) & had.any(axis=0)):
            owned = np.flatnonzero(had[user])
            scores[ad] = round(sum(had[:, ad] @ had[:, own] / np.sqrt(had[:, ad].sum() * had[:, own].sum()) for own in owned), 9)
        wanted = sorted((ad for ad in scores if scores[ad] > 0), key=lambda ad: (-scores[ad], ad))[:4]
        assert lists[user].tolist() == wanted


def test_pools_of_one_size_are_topped_up_with_popular_ads():
    popular = {"u": ["p", "q", "r", "s"], "v": ["p", "q"]}
    filled = benchmark.pools([popular, {"u": ["x", "p"]}], popular, ["u", "v", "w"], 4)
    assert filled == {"u": ["p", "x", "q", "r"], "v": ["p", "q"], "w": []}

"""Worlds in memory in which one part of the ranking model must matter (Pan et al., sections 3 and 4), each with a null twin.

Enters: a generator of random numbers and how many users. Leaves: impressions with the true probability of a click, and users' events. The
null twin of a world has the same histories, ads and values, but the clicks follow a law in which the part has nothing to see.
A new world is a function here and an entry of WORLDS in ranking_parts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.clock import DAY_MS, HOUR_MS, MINUTE_MS
from alure_spark.config import SimilarityConfig
from alure_spark.ranking.encodings import HashId
from alure_spark.training.click_graph import graph_of
from alure_spark.training.graph_sage import train_graph_sage

Random = np.random.Generator
Columns = Mapping[str, np.ndarray]
NOW_MS = 1_736_121_600_000  # 2025-01-06, midnight; histories lie before it
PAYS, PAYS_NOT = 0.8, 0.2  # click probabilities where one thing decides
CATEGORIES = 12  # rows 1.. of the space
VALUES = 300  # of a numeric field
LOOK = 12  # numbers of a creative's embedding
SHARES = (0.55, 0.15, 0.3)  # of the users (in `look_alike`: of the ads): training, validation, test


@dataclass(frozen=True)
class Drawn:
    """U users with m impressions each, those of the training split first, those of the test part last."""

    truth: np.ndarray  # (U, m) float64: how likely the click is
    clicks: np.ndarray  # (U, m) bool
    parts: tuple[int, int, int]  # users of training, validation and test; they add up to U
    rows: Columns = field(default_factory=dict)  # categorical field -> (U, m) int64
    numbers: Columns = field(default_factory=dict)  # numeric field -> (U, m) float64
    vectors: Columns = field(default_factory=dict)  # embedding -> (U, m, its numbers) float64
    time_ms: np.ndarray | None = None  # (U, m) int64, ascending; None: NOW_MS
    events: Columns = field(default_factory=dict)  # at_ms (U, n) int64, ascending, of which those below 0 are not there; category_id (U, n)
    groups: np.ndarray | None = None  # (U, m) int64: what intervals are drawn over; None: users
    alike: Drawn | None = None  # of known ads: all creatives of an ad as impressions of one user

    def batch(self, test: bool) -> JaggedBatch:
        """The test part, all of it as a validation split, or the others."""
        learnt = self.parts[0] + self.parts[1]
        users = np.arange(learnt, len(self.truth)) if test else np.arange(learnt)
        shape = (len(users), self.truth.shape[1])
        time_ms = np.full(shape, NOW_MS) if self.time_ms is None else self.time_ms[users]

        def flat(columns: Columns, kind: torch.dtype) -> dict[str, torch.Tensor]:
            return {name: torch.from_numpy(its[users].reshape(-1, *its.shape[2:])).to(kind) for name, its in columns.items()}

        count = shape[0] * shape[1]
        shown = Impressions(
            offsets=offsets_of(torch.full((shape[0],), shape[1])),
            time_ms=torch.from_numpy(time_ms.ravel()),
            rows=flat(self.rows, torch.int64),
            numbers=flat(self.numbers, torch.float32),
            labels={"click": torch.from_numpy(self.clicks[users].ravel()).float()},
            weight=torch.ones(count),
            label_age_ms=torch.zeros(count, dtype=torch.int64),
            validation=torch.from_numpy(np.repeat(users >= self.parts[0], shape[1])),
            vectors=flat(self.vectors, torch.float32),
        )
        nobody = torch.zeros(shape[0], dtype=torch.int64)
        sources = {"click": self._tokens(users)} if self.events else {}
        return JaggedBatch("all", tuple(map(str, users)), nobody, nobody + NOW_MS + 1000 * DAY_MS, sources, shown)

    def _tokens(self, users: np.ndarray) -> SourceTokens:
        at, category = self.events["at_ms"][users], self.events["category_id"][users]
        there = at >= 0
        at_ms = torch.from_numpy(at[there])
        rows = {"category": torch.from_numpy(category[there])}
        return SourceTokens(offsets_of(torch.from_numpy(there.sum(axis=1))), at_ms, at_ms, rows, {})


def _drawn(random: Random, truth: np.ndarray, **columns: Any) -> Drawn:
    training, validation = (round(share * len(truth)) for share in SHARES[:2])
    parts = (training, validation, len(truth) - training - validation)
    return Drawn(truth, random.random(truth.shape) < truth, parts, **columns)


def _decided(random: Random, pays: np.ndarray, null: bool) -> np.ndarray:
    """Click probabilities of what pays (U, m) bool; in the null twin nothing decides, and the rate is the same."""
    truth = np.where(pays, PAYS, PAYS_NOT)
    return np.full(pays.shape, truth.mean()) if null else truth


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _log_uniform(random: Random, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
    return np.exp(random.uniform(np.log(low), np.log(high), shape)).astype(np.int64)


def interval(random: Random, users: int, null: bool) -> Drawn:
    """A click is likely soon after the newest event, and again some days after it. Categories say nothing."""
    gaps = _log_uniform(random, 10 * MINUTE_MS, 60 * DAY_MS, (users, 6))
    at = NOW_MS - gaps.cumsum(axis=1)[:, ::-1]
    time_ms = NOW_MS + np.stack([np.zeros(users, np.int64), _log_uniform(random, MINUTE_MS, 20 * DAY_MS, (users,))], axis=1)
    age = time_ms - at[:, -1:]
    pays = (age < 4 * HOUR_MS) | ((age > 2 * DAY_MS) & (age < 14 * DAY_MS))
    category = random.integers(1, CATEGORIES + 1, at.shape)
    target = random.integers(1, CATEGORIES + 1, pays.shape)
    events = {"at_ms": np.where(np.arange(6) < random.integers(0, 4, users)[:, None], -1, at), "category_id": category}
    return _drawn(random, _decided(random, pays, null), rows={"category": target}, time_ms=time_ms, events=events)


def _histories(random: Random, users: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Events, two target categories (U, 2), whether each was met (U, 2), and how long before the impression (U, 2).

    A target that was met was met once: how often says nothing. Half are met, whenever that was.
    """
    at = NOW_MS - np.sort(_log_uniform(random, HOUR_MS, 60 * DAY_MS, (users, 10)), axis=1)[:, ::-1]
    names = 1 + np.argsort(random.random((users, CATEGORIES)), axis=1)
    targets, others = names[:, :2], names[:, 2:]
    category = np.take_along_axis(others, random.integers(0, CATEGORIES - 2, at.shape), axis=1)
    missing = random.integers(0, 5, users)  # of the oldest events
    places = np.argsort(random.random((users, 10)) + 9 * (np.arange(10) < missing[:, None]), axis=1)[:, :2]
    met = random.random((users, 2)) < 0.5
    np.put_along_axis(category, places, np.where(met, targets, np.take_along_axis(category, places, axis=1)), axis=1)
    age = NOW_MS - np.take_along_axis(at, places, axis=1)
    at = np.where(np.arange(10) < missing[:, None], -1, at)
    return {"at_ms": at, "category_id": category}, targets, met, age


def category_match(random: Random, users: int, null: bool) -> Drawn:
    """A click is likely where the user's history has the ad's category."""
    events, targets, met, _ = _histories(random, users)
    return _drawn(random, _decided(random, met, null), rows={"category": targets}, events=events)


def recent_match(random: Random, users: int, null: bool) -> Drawn:
    """A click is likely where the history has the ad's category within two days. In the null twin: where it has it, whenever."""
    events, targets, met, age = _histories(random, users)
    pays = met if null else met & (age < 2 * DAY_MS)
    return _drawn(random, _decided(random, pays, False), rows={"category": targets}, events=events)


def _of_numbers(random: Random, users: int, null: bool, curve: Callable[[Random, np.ndarray], np.ndarray]) -> Drawn:
    """Four numbers of 300 values each, about seven training rows per value; the logit is the sum of a curve (of 0 to 1) of each.

    In the null twin the values lie on their curve in an order of their own, in which neighbours have nothing in common.
    """
    value, fixed, logits = random.integers(0, VALUES, (4, users, 1)), np.random.default_rng(0), np.zeros((users, 1))
    for x in value:
        order = fixed.permutation(VALUES)
        logits += curve(fixed, (order[x] if null else x) / VALUES)
    rows = {f"id_{name}": 1 + x for name, x in zip("abcd", value, strict=True)}
    numbers = {f"number_{name}": x.astype(np.float64) for name, x in zip("abcd", value, strict=True)}
    return _drawn(random, _sigmoid(logits), rows=rows, numbers=numbers)


def ordinal(random: Random, users: int, null: bool) -> Drawn:
    """Each number raises or lowers the rate all along, most around a value of its own."""

    def curve(fixed: Random, place: np.ndarray) -> np.ndarray:
        middle, width, sign = fixed.uniform(0.25, 0.75), fixed.uniform(0.1, 0.4), fixed.choice((-1, 1))
        return sign * 1.5 * np.tanh((place - middle) / width)

    return _of_numbers(random, users, null, curve)


def waves(random: Random, users: int, null: bool) -> Drawn:
    """Each number moves the rate on a slow and a fast wave: neighbours are alike, but more is not better."""

    def curve(fixed: Random, place: np.ndarray) -> np.ndarray:
        turns, begins = fixed.uniform((0.5, 3), (1.5, 6)), fixed.uniform(0, 2 * np.pi, 2)
        slow, fast = (np.sin(2 * np.pi * turn * place + begin) for turn, begin in zip(turns, begins, strict=True))
        return slow + 0.7 * fast

    return _of_numbers(random, users, null, curve)


def look_alike(random: Random, users: int, null: bool) -> Drawn:
    """How likely a click is lies in the look of the ad, whose three creatives look alike. Test and validation have ads of their own.

    In the null twin each ad is as good as it is, whatever it looks like. Creatives with few impressions have no row, nor have new ones.
    """
    ads = max(20, users // 18)
    known = round(ads * (SHARES[0]))
    parts = [round(users * share) for share in SHARES[:2]]
    parts.append(users - sum(parts))
    borders = (0, known, known + round(ads * SHARES[1]), ads)
    ad = np.concatenate([random.integers(low, high, count) for (low, high), count in zip(pairwise(borders), parts, strict=True)])
    creative = 3 * ad + random.integers(0, 3, users)
    looks = np.repeat(random.normal(size=(ads, LOOK)), 3, axis=0) + 0.25 * random.normal(size=(3 * ads, LOOK))
    rare = random.random(3 * ads) < 0.1
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(LOOK, 2)))[0]
    seen = looks @ axes
    logits = 1.2 * seen[:, 0] + 0.7 * (seen[:, 1] ** 2 - 1)
    if null:
        logits = np.repeat(random.normal(0, logits.std(), ads), 3)
    row = np.where(rare | (np.arange(3 * ads) >= 3 * known), 0, 1 + np.arange(3 * ads))
    truth = _sigmoid(logits)
    every = np.arange(3 * known).reshape(known, 3)
    alike = Drawn(truth[every], truth[every] > 0.5, (0, 0, known), {"creative_id": row[every]}, vectors={"look": looks[every]})
    columns = {"rows": {"creative_id": row[creative][:, None]}, "vectors": {"look": looks[creative][:, None]}}
    return _drawn(random, truth[creative][:, None], **columns, groups=ad[:, None], alike=alike)


MEETING = 4  # fields of `collapse` with many values
FEW = (2, 3, 4)  # values of its other fields
MANY = 60
DIRECTIONS = 8  # along which two fields of many values meet


def collapse(random: Random, users: int, null: bool) -> Drawn:
    """Four fields of 60 values, each pair of which meets along eight directions of its own, and three fields of two to four values.

    A value of these is met by every value of the others in a way of its own, as strongly in all as those meet among each other. So it is
    a few directions that pull hardest at each vector. In the null twin the fields of few values say nothing, and all else is as it is.
    """
    sizes = (*[MANY] * MEETING, *FEW)
    value = np.stack([random.integers(0, size, (users, 10)) for size in sizes])
    among = list(zip(*np.triu_indices(MEETING, 1), strict=True))
    of_few = [(i, j) for i in range(MEETING) for j in range(MEETING, len(sizes))]
    logits = np.zeros(value.shape[1:])
    for i, j in among:
        one, other = random.normal(size=(2, MANY, DIRECTIONS))
        logits += (one @ other.T / (DIRECTIONS * len(among)) ** 0.5)[value[i], value[j]]
    for i, j in () if null else of_few:
        logits += random.normal(0, len(of_few) ** -0.5, (MANY, sizes[j]))[value[i], value[j]]
    return _drawn(random, _sigmoid(logits), rows={f"field_{number}": 1 + its for number, its in enumerate(value)})


SIGNS = np.array([[0, -1, 1], [-1, 0, 1], [1, 1, 0]])  # of pairs of groups; no change of signs of vectors makes them all +1
GROUPS = ("person", "context", "ad")
OF_GROUP = 30  # values of each field of a group


def opposite_groups(random: Random, users: int, null: bool) -> Drawn:
    """Three groups of two fields: one pair of groups meets with the other sign, fields of one group do not meet.

    In the null twin all pairs of fields meet with the same sign, which is FM's own law.
    """
    value = random.integers(0, OF_GROUP, (6, users, 1))
    vectors = np.random.default_rng(0).normal(0, 3**-0.25, (6, OF_GROUP, 3))[np.arange(6)[:, None, None], value]  # (6, U, 1, 3)
    group = np.repeat(np.arange(3), 2)
    signs = np.ones((6, 6)) if null else SIGNS[group][:, group]
    logits = 0.8 * np.einsum("ij,iumk,jumk->um", np.triu(signs, 1), vectors, vectors)
    return _drawn(
        random, _sigmoid(logits), rows=dict(zip((f"{name}_{letter}" for name in GROUPS for letter in "ab"), 1 + value, strict=True))
    )


def opposite_scenarios(random: Random, users: int, null: bool) -> Drawn:
    """Kinds of users and ads that go together on one surface do not on the other. In the null twin both surfaces are alike."""
    surface = random.integers(0, 2, (users, 1))
    value = random.integers(0, OF_GROUP, (2, users, 1))
    vectors = np.random.default_rng(0).normal(0, 3**-0.25, (2, OF_GROUP, 3))[np.arange(2)[:, None, None], value]  # (2, U, 1, 3)
    signs = np.ones_like(surface) if null else 1 - 2 * surface
    logits = 2 * signs * np.einsum("umk,umk->um", *vectors)
    return _drawn(random, _sigmoid(logits), rows={"surface": 1 + surface, "user_kind": 1 + value[0], "ad_kind": 1 + value[1]})


CIRCLES = 20  # of users who like the same items
OF_CIRCLE = 25  # items
CLICKED = 4  # by a user before the impressions, most of them of the circle


def neighbours(random: Random, users: int, null: bool) -> Drawn:
    """A click is likely on items of the user's circle, which only the clicks of others tell: nobody is shown what they clicked before.

    `similarity` is the cosine of GraphSAGE on the graph of the former clicks, in which no impression is. In the null twin nothing decides.
    """
    circle = random.integers(0, CIRCLES, (users, 1))

    def item(own: np.ndarray) -> np.ndarray:
        return random.integers(0, OF_CIRCLE, own.shape) * CIRCLES + np.where(own, circle, random.integers(0, CIRCLES, own.shape))

    clicked = np.sort(item(random.random((users, CLICKED)) < 0.85), axis=1)
    shown = item(random.random((users, 2)) < 0.5)
    while len(at := np.argwhere((shown[:, :, None] == clicked[:, None]).any(axis=2))):
        shown[tuple(at.T)] = random.integers(0, CIRCLES * OF_CIRCLE, len(at))
    events = {"at_ms": NOW_MS - DAY_MS * np.arange(CLICKED, 0, -1) + np.zeros_like(clicked), "category_id": 1 + clicked}
    return _drawn(
        random, _decided(random, shown % CIRCLES == circle, null), rows={"category": 1 + shown}, events=events,
        numbers={"similarity": _cosines(clicked, shown)},
    )  # fmt: skip


def _cosines(clicked: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(U, m) of the users and the items they are shown, by GraphSAGE on the graph of the clicks (U, n); 0 of a new item."""
    edges = np.unique(np.stack([np.repeat(np.arange(len(clicked)), clicked.shape[1]), clicked.ravel()], axis=1), axis=0)
    order = np.random.default_rng(0).permutation(len(edges))  # in which neighbors are sampled
    place = {}
    for side in (0, 1):
        mine = order[np.argsort(edges[order, side], kind="stable")]
        of = edges[mine, side]
        place[side] = np.empty(len(edges), np.int32)
        place[side][mine] = 1 + np.arange(len(edges)) - np.searchsorted(of, of)
    ids = [pa.array([f"{number:08d}" for number in edges[:, side]]) for side in (0, 1)]
    rows = pa.table({
        "user_id": ids[0], "item_id": ids[1], "of_user": place[0], "of_item": place[1], "held_out": np.zeros(len(edges), bool),
    })  # fmt: skip
    config = SimilarityConfig(dimension=16)
    named = graph_of(rows, max(config.fanout))
    vectors = train_graph_sage(named.graph, config)[0].embeddings().numpy()
    known = edges[:, 1].max() + 1
    node = np.full(max(known, shown.max() + 1), -1)
    node[[int(name) for name in named.items.to_pylist()]] = len(clicked) + np.arange(len(named.items))
    cosine = np.einsum("ud,umd->um", vectors[: len(clicked)], vectors[node[shown]])
    return np.where(node[shown] < 0, 0.0, cosine).astype(np.float64)


def tested(drawn: Drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the impressions of the test part: labels, true probabilities, groups, each (M,)."""
    users, shape = slice(sum(drawn.parts[:2]), None), drawn.truth.shape
    groups = np.broadcast_to(np.arange(shape[0])[:, None], shape) if drawn.groups is None else drawn.groups
    return drawn.clicks[users].ravel().astype(np.float64), drawn.truth[users].ravel(), groups[users].ravel()


def spread_of(scores: np.ndarray) -> float:
    """Deviation / mean of the scores (ads, creatives) of an ad's creatives, mean over the ads."""
    return float((scores.std(axis=1) / scores.mean(axis=1)).mean())


def kept_distance(base: int, pairs: int = 5000) -> float:
    """How well HashID's digits in the base tell how alike two embeddings are: correlation of the share of equal digits with the cosine."""
    random = np.random.default_rng(7)
    one, other = np.linalg.qr(random.normal(size=(pairs, LOOK, 2)))[0].transpose(2, 0, 1)
    cosine = random.uniform(-1, 1, pairs)
    both = torch.from_numpy(np.stack([one, cosine[:, None] * one + np.sqrt(1 - cosine**2)[:, None] * other]))
    first, second = (HashId(LOOK, bases=(base,)).codes(its)[:, 1:] for its in both)
    share = (first == second).double().mean(dim=1).numpy()
    return float(np.corrcoef(share, cosine)[0, 1])

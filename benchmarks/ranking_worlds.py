"""Worlds in memory in which one part of the ranking model must matter (Pan et al., sections 3 and 4), each with a null twin.

Enters: a generator of random numbers and how many users. Leaves: impressions with the true probability of a click, and users' events. The
null twin of a world has the same histories, ads and values, but the clicks follow a law in which the part has nothing to see.
A new world is a function here and a line in WORLDS; graph neighbours (a similarity that stands beside the experts) will come so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.clock import DAY_MS, HOUR_MS, MINUTE_MS
from alure_spark.config import ExpertConfig, RankingConfig, SequenceConfig
from alure_spark.ranking.spec import FieldSpec, RankingSpec

Random = np.random.Generator
Columns = Mapping[str, np.ndarray]
NOW_MS = 1_736_121_600_000  # 2025-01-06, midnight; histories lie before it
PAYS, PAYS_NOT = 0.8, 0.2  # click probabilities where one thing decides
CATEGORIES = 12  # rows 1.. of the space
VALUES, BUCKETS = 300, 30  # of a numeric field, and the steps of plain buckets
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
    groups: np.ndarray | None = None  # (U, m) int64 what intervals are drawn over; None: users

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


@dataclass(frozen=True)
class World:
    """What is planted, the model that can see it (the first one) and those that cannot."""

    make: Callable[[Random, int, bool], Drawn]  # (random, users, whether it is the null twin)
    specs: Mapping[str, RankingSpec]  # model -> what it is made for; encodings are fitted later
    users: int
    over: str = "users"  # what the interval is over


def spec_of(
    fields: Mapping[str, FieldSpec],
    tables: Mapping[str, int] | None = None,
    experts: Mapping[str, ExpertConfig] | None = None,
    sequences: Mapping[str, SequenceConfig] | None = None,
) -> RankingSpec:
    """A model of clicks; what is not given is as RankingConfig has it."""
    config = RankingConfig()
    return RankingSpec(
        fields=fields,
        tables=tables or config.tables,
        experts=experts or config.experts,
        tasks=("click",),
        sequences=sequences or {},
        hidden=config.hidden,
        tower=config.tower,
        deviation=config.deviation,
    )


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


def ordinal(random: Random, users: int, null: bool) -> Drawn:
    """Four numbers of 300 values each, with a curve each that bends a few times. In the null twin the values lie in no order on it."""
    value = random.integers(0, VALUES, (4, users, 1))
    fixed = np.random.default_rng(0)
    logits = np.zeros((users, 1))
    for x in value:
        turns, phase, order = fixed.uniform(0.5, 2.5, 2), fixed.uniform(0, 2 * np.pi, 2), fixed.permutation(VALUES)
        place = (order[x] if null else x) / VALUES
        logits += sum(np.sin(2 * np.pi * turn * place + begin) for turn, begin in zip(turns, phase, strict=True))
    rows = {f"id_{name}": 1 + x for name, x in zip("abcd", value, strict=True)}
    numbers = {f"number_{name}": x.astype(np.float64) for name, x in zip("abcd", value, strict=True)}
    return _drawn(random, _sigmoid(logits), rows=rows, numbers=numbers)


def look_alike(random: Random, users: int, null: bool) -> Drawn:
    """How likely a click is lies in the look of the ad, whose three creatives look alike. Test and validation have ads of their own.

    In the null twin each ad is as good as it is, whatever it looks like. Creatives with few impressions have no row, nor have new ones.
    """
    ads = max(20, users // 18)
    known = round(ads * (SHARES[0]))
    parts = [round(users * share) for share in SHARES[:2]]
    parts.append(users - sum(parts))
    borders = (0, known, known + round(ads * SHARES[1]), ads)
    ad = np.concatenate([random.integers(low, high, count) for low, high, count in zip(borders, borders[1:], parts, strict=True)])
    creative = 3 * ad + random.integers(0, 3, users)
    looks = np.repeat(random.normal(size=(ads, LOOK)), 3, axis=0) + 0.25 * random.normal(size=(3 * ads, LOOK))
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(LOOK, 2)))[0]
    seen = looks @ axes
    logits = 1.2 * seen[:, 0] + 0.7 * (seen[:, 1] ** 2 - 1)
    if null:
        logits = np.repeat(random.normal(0, logits.std(), ads), 3)
    rare = random.random(3 * ads) < 0.1
    row = np.where(rare | (np.arange(3 * ads) >= 3 * known), 0, 1 + np.arange(3 * ads))
    columns = {"rows": {"creative_id": row[creative][:, None]}, "vectors": {"look": looks[creative][:, None]}}
    return _drawn(random, _sigmoid(logits[creative])[:, None], **columns, groups=ad[:, None])


def _latent(fields: int, values: int, rank: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, rank**-0.25, (fields, values, rank))


def collapse(random: Random, users: int, null: bool) -> Drawn:
    """Four fields of 100 values whose vectors meet in pairs, and two of few values that meet them. Null: along one direction only."""
    rank = 1 if null else 6
    value = random.integers(0, 100, (4, users, 1))
    few = np.stack([random.integers(0, 2, (users, 1)), random.integers(0, 3, (users, 1))])
    vectors = np.concatenate([_latent(4, 100, rank)[np.arange(4)[:, None, None], value], _latent(2, 3, rank)[np.arange(2)[:, None, None], few]])
    logits = ((vectors.sum(axis=0) ** 2 - (vectors**2).sum(axis=0)) / 2).sum(axis=-1)
    names = ("user", "ad", "page", "query", "gender", "age")
    return _drawn(random, _sigmoid(logits), rows=dict(zip(names, 1 + np.concatenate([value, few]), strict=True)))


SIGNS = np.array([[0, -1, 1], [-1, 0, 1], [1, 1, 0]])  # of pairs of groups; no change of signs of vectors makes them all +1
GROUPS = ("person", "context", "ad")


def opposite_groups(random: Random, users: int, null: bool) -> Drawn:
    """Three groups of two fields: one pair of groups meets with the other sign, fields of one group do not meet. Null: all pairs meet alike."""
    value = random.integers(0, 50, (6, users, 1))
    vectors = _latent(6, 50, 3)[np.arange(6)[:, None, None], value]  # (6, U, 1, 3)
    group = np.repeat(np.arange(3), 2)
    signs = np.ones((6, 6)) if null else SIGNS[group][:, group]
    logits = 0.8 * np.einsum("ij,iumk,jumk->um", np.triu(signs, 1), vectors, vectors)
    return _drawn(random, _sigmoid(logits), rows=dict(zip((f"{name}_{n}" for name in GROUPS for n in "ab"), 1 + value, strict=True)))


def _id(rows: int, **more: Any) -> FieldSpec:
    return FieldSpec("id", {"size": rows + 1}, **more)


def _ad(**more: Any) -> dict[str, Any]:
    return {"group": "ad", "part": "ad"} | more


def _with_history(position: bool = True, interval: bool = True, read: bool = True) -> RankingSpec:
    fields = {
        "category": _id(CATEGORIES, **_ad()),
        "clicks": FieldSpec("numeral_systems", {"kind": "integer"}, history="click.count"),
    }
    own = SequenceConfig("click", "category", "category", events=20, position=position, interval=interval)
    return spec_of(fields, sequences={"clicked": own} if read else {})


def _numbers(read: str, settings: Mapping[str, Any]) -> RankingSpec:
    return spec_of({f"{'id' if read == 'id' else 'number'}_{name}": FieldSpec(read, settings) for name in "abcd"})


def _look(creative: FieldSpec, name: str) -> RankingSpec:
    return spec_of({name: creative})


def _met(sizes: Mapping[str, int], tables: int, dimension: int, kind: str, groups: bool = False) -> RankingSpec:
    """Fields of ids that meet in so many tables, each with an expert of its own."""
    fields = {}
    for name, rows in sizes.items():
        group = name.partition("_")[0] if groups else "user"
        fields[name] = _id(rows, group=group, part="ad" if group == "ad" else "user")
    names = [f"table_{number}" for number in range(tables)]
    return spec_of(fields, dict.fromkeys(names, dimension), {name: ExpertConfig(kind, name) for name in names})


COLLAPSED = {"user": 100, "ad": 100, "page": 100, "query": 100, "gender": 2, "age": 3}
GROUPED = {f"{name}_{n}": 50 for name in GROUPS for n in "ab"}
SIZES = (1, 4, 16)  # times 4 numbers per row
WORLDS = {
    "interval": World(
        interval, {"interval to the target": _with_history(), "position only": _with_history(interval=False)}, users=4000
    ),
    "category_match": World(
        category_match, {"target-aware history": _with_history(), "count of the history": _with_history(read=False)}, users=4000
    ),
    "recent_match": World(
        recent_match, {"target and time": _with_history(), "target only (as DIN)": _with_history(position=False, interval=False)}, users=4000
    ),
    "ordinal": World(
        ordinal,
        {
            "numeral systems": _numbers("numeral_systems", {"kind": "integer"}),
            "an id per value": _numbers("id", {"size": VALUES + 1}),
            "plain buckets": _numbers("numeral_systems", {"kind": "quantile", "steps": BUCKETS, "bases": [BUCKETS]}),
        },
        users=4000,
    ),
    "look_alike": World(
        look_alike,
        {
            "HashID": _look(FieldSpec("hash_id", {"numbers": LOOK}), "look"),
            "ids": _look(FieldSpec("id", {"size": 0}), "creative_id"),
            "HashID in the bases 3 and 10": _look(FieldSpec("hash_id", {"numbers": LOOK, "bases": (3, 10)}), "look"),
        },
        users=9000,
        over="ads",
    ),
    "opposite_groups": World(
        opposite_groups, {kind: _met(GROUPED, 1, 8, kind, groups=True) for kind in ("gwpfm", "fm", "fwfm")}, users=12000
    ),
}  # fmt: skip
WORLDS |= {
    f"collapse_{times}x": World(collapse, {"several tables": _met(COLLAPSED, times, 4, "fm"), "one table": _met(COLLAPSED, 1, 4 * times, "fm")}, users=12000)
    for times in SIZES
}

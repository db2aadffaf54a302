"""Worlds in memory in which what a ranking model minimizes must matter (Pan et al., sections 6.1 and 6.2), each with a null twin.

Enters: a generator of random numbers and how many users. Leaves: impressions with the true probability of a click, as ranking_worlds.Drawn.
`sparse` has next to no clicks, `repeats` shows users few ads again and again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alure_spark.batches.batch import JaggedBatch, SourceTokens
from alure_spark.clock import DAY_MS, HOUR_MS
from benchmarks.ranking_worlds import NOW_MS, SHARES, Drawn, Random

SIZES = {"person": 30, "ad": 60, "place": 8, "hour": 24}  # values of the fields of `sparse`
SHOWN = 20  # impressions of a user
ADS, OF_USER, EXPOSURES = 40, 4, 16  # of `repeats`: ads, how many of them a user is shown, impressions of a user
TIRES, HALF_LIFE_DAYS = 1.2, 3.0  # what the first exposure takes from the logit of the next, and in which time it is forgotten by half
RATE = 0.1  # of clicks in `repeats`
STREAM = "ad_impression"


def sparse(random: Random, users: int, null: bool, rate: float) -> Drawn:
    """Clicks of a given base rate: each field moves the logit, and persons like some ads. In the null twin nothing does."""
    fixed = np.random.default_rng(0)
    value = {name: random.integers(0, size, (users, SHOWN)) for name, size in SIZES.items()}
    value["person"] = np.broadcast_to(value["person"][:, :1], (users, SHOWN)).copy()
    logits = sum(fixed.normal(0, 0.6, size)[value[name]] for name, size in SIZES.items())
    person, ad = (fixed.normal(0, 1, (SIZES[name], 2)) for name in ("person", "ad"))
    logits = logits + 0.7 * (person[value["person"]] * ad[value["ad"]]).sum(axis=-1)
    truth = np.full(logits.shape, rate) if null else of_rate(logits, rate)
    return drawn(random, truth, rows={name: 1 + its for name, its in value.items()})


def repeats(random: Random, users: int, null: bool) -> Drawn:
    """A click is the less likely the more often, and the more recently, the user was shown the ad. In the null twin it is all the same."""
    fixed = np.random.default_rng(0)
    theirs = np.argsort(random.random((users, ADS)), axis=1)[:, :OF_USER]
    ad = np.take_along_axis(theirs, random.integers(0, OF_USER, (users, EXPOSURES)), axis=1)
    gaps = np.exp(random.uniform(np.log(HOUR_MS), np.log(4 * DAY_MS), ad.shape)).astype(np.int64)
    time_ms = NOW_MS + gaps.cumsum(axis=1)
    tired = np.zeros(ad.shape)
    for later in range(EXPOSURES):
        age = (time_ms[:, later, None] - time_ms[:, :later]) / DAY_MS
        tired[:, later] = (0.5 ** (age / HALF_LIFE_DAYS) * (ad[:, :later] == ad[:, later, None])).sum(axis=1)
    logits = fixed.normal(0, 0.7, ADS)[ad] - (0 if null else TIRES) * tired
    return drawn(random, of_rate(logits, RATE), rows={"ad": 1 + ad}, time_ms=time_ms)


def of_rate(logits: np.ndarray, rate: float) -> np.ndarray:
    """Probabilities with this mean: one number is added to all logits."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-logits - middle))).mean() < rate else (low, middle)
    return np.asarray(1 / (1 + np.exp(-logits - low)))


def drawn(random: Random, truth: np.ndarray, rows: dict[str, np.ndarray], time_ms: np.ndarray | None = None) -> Drawn:
    training, validation = (round(share * len(truth)) for share in SHARES[:2])
    parts = (training, validation, len(truth) - training - validation)
    return Drawn(truth, random.random(truth.shape) < truth, parts, rows, time_ms=time_ms)


def exposed(batch: JaggedBatch) -> JaggedBatch:
    """The batch, whose impressions are events of a stream as well: what was shown before can be counted."""
    shown = batch.impressions
    assert shown is not None
    tokens = SourceTokens(shown.offsets, shown.time_ms, shown.time_ms, {"ad": shown.rows["ad"]}, {})
    return replace(batch, sources={STREAM: tokens})


def exposure_numbers(one: Drawn) -> np.ndarray:
    """(U, m) int64: the how manieth time the user is shown the ad, 1 for the first."""
    ad = one.rows["ad"]
    return 1 + np.stack([(ad[:, :later] == ad[:, later, None]).sum(axis=1) for later in range(ad.shape[1])], axis=1)

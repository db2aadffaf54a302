"""Worlds in memory whose impressions bring a value: 0, or lognormal, by laws of user and ad that are known.

Enters: a generator of random numbers and how many impressions. Leaves: impressions with their value and its true mean. All parts have the
same users and ads, for tastes are of ids. A new world is a function here and an entry of WORLDS in ranking_values.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from alure_spark.batches.batch import JaggedBatch
from benchmarks.ranking_task_worlds import PARTS
from benchmarks.ranking_worlds import Drawn, Random

USERS, ADS = 120, 60
DIMENSIONS = 2  # of a taste
RATE = -1.5  # mean of the logit of a value above 0
SIZE = 1.0  # mean of the log of one
SPREAD = 0.6  # its deviation, of the same user and ad
CHANCES, SIZES = 2.0, 1.0  # deviations, over users and ads, of that logit and of that mean
TASK = "spent"


@dataclass(frozen=True)
class Valued:
    """n impressions."""

    drawn: Drawn  # (n, 1): of whether the value is above 0
    values: np.ndarray  # (n,) float64
    mean: np.ndarray  # (n,) float64, the true one

    def batch(self, test: bool) -> JaggedBatch:
        """The test part, all of it as a validation split, or the others."""
        found, learnt = self.drawn.batch(test), sum(self.drawn.parts[:2])
        assert found.impressions is not None
        values = torch.from_numpy(self.values[learnt:] if test else self.values[:learnt]).float()
        return replace(found, impressions=replace(found.impressions, labels={TASK: values}))

    def tested(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(M,) each of the test part: values, true means, users."""
        learnt = sum(self.drawn.parts[:2])
        assert self.drawn.groups is not None
        return self.values[learnt:], self.mean[learnt:], self.drawn.groups[learnt:, 0]


def _taste(random: Random, deviation: float) -> np.ndarray:
    """(USERS, ADS) inner products of tastes, whose deviation is the given one."""
    users, ads = random.normal(size=(USERS, DIMENSIONS)), random.normal(size=(ADS, DIMENSIONS))
    return deviation / DIMENSIONS**0.5 * users @ ads.T


def _world(random: Random, count: int, chances: float, sizes: float) -> Valued:
    """chances, sizes: deviation of the logit of a value above 0, and of the mean of its log, over users and ads."""
    logits, mu = RATE + _taste(random, chances), SIZE + _taste(random, sizes)
    user, ad = random.integers(0, USERS, count), random.integers(0, ADS, count)
    p, mu = 1 / (1 + np.exp(-logits[user, ad])), mu[user, ad]
    above = random.random(count) < p
    values = np.where(above, np.exp(mu + SPREAD * random.normal(size=count)), 0.0)
    training, validation = (round(share * count) for share in PARTS[:2])
    parts = (training, validation, count - training - validation)
    rows = {"user": 1 + user[:, None], "ad": 1 + ad[:, None]}
    return Valued(Drawn(p[:, None], above[:, None], parts, rows=rows, groups=user[:, None]), values, p * np.exp(mu + SPREAD**2 / 2))


def chance_and_size(random: Random, count: int) -> Valued:
    """How likely a value is, and how large, are tastes of their own."""
    return _world(random, count, CHANCES, SIZES)


def chance_alone(random: Random, count: int) -> Valued:
    """How likely a value is, is a taste; how large, is chance: there the probability says all."""
    return _world(random, count, CHANCES, 0.0)


def nothing(random: Random, count: int) -> Valued:
    """The null twin: neither depends on user or ad."""
    return _world(random, count, 0.0, 0.0)

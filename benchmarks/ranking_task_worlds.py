"""Worlds in memory in which two tasks share users and ads (Pan et al., section 5), each with a null twin.

Enters: a generator of random numbers and how many impressions. Leaves: per task the impressions with the true probability of its response.
A user and an ad are near in a task where the inner product of their tastes in it is large. All parts have the same users and ads, for
tastes are of ids; the impressions are drawn by themselves. A new world is a function here and an entry of WORLDS in ranking_tasks.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from alure_spark.batches.batch import JaggedBatch
from benchmarks.ranking_worlds import Drawn, Random

Tasks = Mapping[str, Drawn]  # task -> its responses; rows are the same for all tasks
USERS, ADS = 240, 120
DIMENSIONS = 4  # of a taste
STRENGTH = 3.0  # deviation of the logits that tastes make
PARTS = (0.55, 0.15, 0.3)  # of the impressions: training, validation, test
FIRST, SECOND = "click", "conversion"
SMALL_RATE = -4.5  # offset of the logit of a task with few positives


def _vectors(random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Tastes of users (USERS, DIMENSIONS) and ads (ADS, DIMENSIONS), whose inner products have the deviation STRENGTH."""
    scale = np.sqrt(STRENGTH) / DIMENSIONS**0.25
    return scale * random.normal(size=(USERS, DIMENSIONS)), scale * random.normal(size=(ADS, DIMENSIONS))


def _drawn(random: Random, logits: Mapping[str, np.ndarray], count: int) -> Tasks:
    """Impressions at random of users and ads, whose logits (USERS, ADS) are given by task. Intervals are drawn over users."""
    user, ad = random.integers(0, USERS, count), random.integers(0, ADS, count)
    training, validation = (round(share * count) for share in PARTS[:2])
    parts = (training, validation, count - training - validation)
    rows = {"user": 1 + user[:, None], "ad": 1 + ad[:, None]}
    found = {}
    for task, its in logits.items():
        truth = 1 / (1 + np.exp(-its[user, ad]))[:, None]
        found[task] = Drawn(truth, random.random(truth.shape) < truth, parts, rows=rows, groups=user[:, None])
    return found


def _pair(random: Random, against: float) -> tuple[np.ndarray, np.ndarray]:
    """Interests (USERS, ADS) in two tasks. against: the share of the taste's directions that count the other way in the second."""
    users, ads = _vectors(random)
    signs = np.where(np.arange(DIMENSIONS) < against * DIMENSIONS, -1, 1)
    return users @ ads.T, (users * signs) @ ads.T


def contradictory(random: Random, count: int, null: bool) -> Tasks:
    """In half of the directions of taste, who is near in one task is far in the other. In the null twin both tasks have one taste."""
    one, other = _pair(random, 0.0 if null else 0.5)
    return _drawn(random, {FIRST: one, SECOND: other}, count)


def large_and_small(random: Random, count: int, null: bool) -> Tasks:
    """The same, but the second task has few positives. In the null twin both tasks have one taste."""
    one, other = _pair(random, 0.0 if null else 0.5)
    return _drawn(random, {FIRST: one, SECOND: other + SMALL_RATE}, count)


def _with_auxiliary(random: Random, count: int, null: bool, against: float) -> Tasks:
    """A main task with few positives, and an auxiliary one with many; in the null twin the auxiliary one is a coin toss."""
    main, auxiliary = _pair(random, against)
    return _drawn(random, {FIRST: main + SMALL_RATE, SECOND: 0 * auxiliary if null else auxiliary}, count)


def helpful(random: Random, count: int, null: bool) -> Tasks:
    """The auxiliary task has the main task's taste. In the null twin it is a coin toss."""
    return _with_auxiliary(random, count, null, 0.0)


def harmful(random: Random, count: int, null: bool) -> Tasks:
    """In half of the directions the auxiliary task has the opposite taste. In the null twin it is a coin toss."""
    return _with_auxiliary(random, count, null, 0.5)


def batch(drawn: Tasks, test: bool) -> JaggedBatch:
    """The test part, all of it as a validation split, or the others; with a label per task."""
    batches = {task: one.batch(test) for task, one in drawn.items()}
    first = next(iter(batches.values()))
    assert first.impressions is not None
    labels = {task: one.impressions.labels["click"] for task, one in batches.items() if one.impressions is not None}
    return replace(first, impressions=replace(first.impressions, labels=labels))

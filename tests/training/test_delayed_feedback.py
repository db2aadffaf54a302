"""Delayed feedback: every impression counts once, as what it was; who reports steadily is not waited for, who reports in bursts is."""

from __future__ import annotations

import numpy as np
import pytest

from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.training.delayed_feedback import NEVER, Shown, samples, unrest, waits

CHOICES = (0, DAY_MS, 3 * DAY_MS, 7 * DAY_MS)


def drawn(bursts: bool, seed: int = 0, days: int = 30, a_day: int = 300, rate: float = 0.08) -> Shown:
    """One account: its responses become known some hours later, or all together every three days or so."""
    random = np.random.default_rng(seed)
    time_ms = np.sort(random.integers(0, days * DAY_MS, days * a_day))
    known_ms = time_ms + (random.exponential(4 * HOUR_MS, len(time_ms))).astype(np.int64)
    if bursts:
        reports = np.cumsum(random.uniform(2 * DAY_MS, 4 * DAY_MS, 2 * days)).astype(np.int64)
        known_ms = reports[np.searchsorted(reports, known_ms)]
    known_ms = np.where(random.random(len(time_ms)) < rate, known_ms, NEVER)
    return Shown(time_ms, np.zeros(len(time_ms), np.int64), known_ms)


def together(*each: Shown) -> Shown:
    account = np.repeat(np.arange(len(each)), [len(one.time_ms) for one in each])
    return Shown(np.concatenate([one.time_ms for one in each]), account, np.concatenate([one.known_ms for one in each]))


def chosen(shown: Shown, accounts: int, now_ms: int, **more) -> list[int]:
    return waits(shown, accounts, now_ms, CHOICES, 14, DAY_MS, 0.3, **more).tolist()


def by_hand(shown: Shown, wait_ms: np.ndarray) -> list[tuple]:
    found = []
    for place, (time_ms, known_ms, wait) in enumerate(zip(shown.time_ms, shown.known_ms, wait_ms, strict=True)):
        out = time_ms + wait
        found.append((out, place, float(known_ms <= out), 1.0))
        if out < known_ms < NEVER:
            found += [(known_ms, place, 0.0, -1.0), (known_ms, place, 1.0, 1.0)]
    return sorted(found)


def test_samples_are_those_of_a_loop():
    random = np.random.default_rng(1)
    time_ms = random.integers(0, 50, 200)
    known_ms = np.where(random.random(200) < 0.5, time_ms + random.integers(0, 40, 200), NEVER)
    shown, wait_ms = Shown(time_ms, np.zeros(200, np.int64), known_ms), random.integers(0, 30, 200)
    fed = samples(shown, wait_ms)
    assert list(zip(fed.time_ms, fed.impression, fed.label, fed.weight, strict=True)) == by_hand(shown, wait_ms)
    part = fed.between(20, 40)
    inside = [row for row in by_hand(shown, wait_ms) if 20 <= row[0] < 40]
    assert list(zip(part.time_ms, part.impression, part.label, part.weight, strict=True)) == inside


@pytest.mark.parametrize("wait_ms", CHOICES)
def test_in_the_end_each_impression_has_counted_once_as_what_it_was(wait_ms):
    shown = drawn(bursts=True)
    fed = samples(shown, np.full(len(shown.time_ms), wait_ms))
    np.testing.assert_array_equal(np.bincount(fed.impression, weights=fed.weight), 1)
    np.testing.assert_array_equal(np.bincount(fed.impression, weights=fed.weight * fed.label), shown.known_ms != NEVER)
    late = shown.known_ms[shown.known_ms != NEVER] > shown.time_ms[shown.known_ms != NEVER] + wait_ms
    assert len(fed.time_ms) == len(shown.time_ms) + 2 * late.sum()


@pytest.mark.parametrize("seed", range(5))
def test_steady_accounts_are_not_waited_for_and_those_that_report_in_bursts_are(seed):
    shown = together(drawn(False, seed), drawn(True, seed), drawn(False, seed + 9))
    steady, bursts, other = chosen(shown, 3, 25 * DAY_MS)
    assert (steady, other) == (0, 0)
    assert bursts >= 3 * DAY_MS


def test_what_became_known_later_changes_no_wait():
    shown, now_ms = together(drawn(True, 3), drawn(False, 4)), 20 * DAY_MS
    later = np.where(shown.known_ms >= now_ms, NEVER, shown.known_ms)
    later = np.where((shown.time_ms >= now_ms) & (shown.known_ms == NEVER), shown.time_ms + HOUR_MS, later)
    assert chosen(shown, 2, now_ms) == chosen(Shown(shown.time_ms, shown.account, later), 2, now_ms)


def test_an_account_with_few_responses_is_not_waited_for():
    few = drawn(True, rate=0.002)
    assert chosen(few, 1, 25 * DAY_MS) == [0]
    assert chosen(few, 1, 25 * DAY_MS, least_responses=1) != [0]
    assert chosen(few, 2, 25 * DAY_MS)[1] == 0, "nor is one without impressions"


def test_unrest_is_the_share_by_which_a_rate_strays():
    random = np.random.default_rng(2)
    whole = np.full((2000, 14), 5000.0)
    level, stray = 0.1, 0.5
    rate = level * (1 + stray * random.choice([-1, 1], whole.shape))
    strayed = unrest(random.poisson(rate * whole).astype(float), whole)
    assert np.median(strayed) == pytest.approx(stray, rel=0.08)
    calm = unrest(random.poisson(level * whole).astype(float), whole)
    assert np.median(calm) < 0.02
    assert unrest(np.zeros((1, 3)), np.ones((1, 3))) == np.inf


def test_a_response_before_its_impression_is_refused():
    with pytest.raises(ValueError, match="before its impression"):
        Shown(np.array([5]), np.array([0]), np.array([4]))


def test_an_impression_goes_out_once_it_is_known_itself():
    time_ms, logged_ms = np.array([0, 0, 0]), np.array([0, 5, 50])
    shown = Shown(time_ms, np.zeros(3, np.int64), np.array([20, 20, NEVER]), logged_ms)
    fed = samples(shown, np.array([10, 10, 10]))
    rows = list(zip(fed.impression, fed.time_ms, fed.label, fed.weight, strict=True))
    assert rows == [(0, 10, 0, 1), (1, 10, 0, 1), (0, 20, 0, -1), (0, 20, 1, 1), (1, 20, 0, -1), (1, 20, 1, 1), (2, 50, 0, 1)]
    with pytest.raises(ValueError, match="before that was known"):
        Shown(time_ms, time_ms, np.array([4, 4, NEVER]), logged_ms)

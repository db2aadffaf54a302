"""Equations (1) to (9) of DynamiX against plain Python, a fitted logistic regression, and worlds whose law is known."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from alure_spark.config import DynamixConfig
from alure_spark.dynamix.correlation import Sums, correlate, levels, population_of, thresholds_of
from alure_spark.dynamix.segments import populations
from alure_spark.dynamix.statistics import SUMS

CONFIG = DynamixConfig()


def sums(users):
    """users: [[(dwell_ms, converted), ..], ..]"""
    empty = Sums(*(np.zeros(len(users), np.int64) for _ in range(6)))
    flat = [(user, dwell, label) for user, rows in enumerate(users) for dwell, label in rows]
    user, dwell, label = (np.array(values) for values in zip(*flat, strict=True)) if flat else (np.array([], int),) * 3
    return empty.add(user, dwell, label.astype(bool))


def simulated(users, mean, between, within, rng, most=60):
    """Sums of users whose corr is normal about the mean, and the true corr of each."""
    truth = rng.normal(mean, between, users)
    rows = []
    for corr in truth:
        label = rng.random(rng.integers(4, most)) < 0.3
        rows.append(list(zip(np.exp(rng.normal(9 + corr * label, within)).round() + 1, label, strict=True)))
    return sums(rows), truth


@given(st.lists(st.tuples(st.integers(250, 3_600_000), st.booleans()), min_size=3, max_size=20))
def test_one_user_is_what_the_equations_say(rows):
    found = correlate(sums([rows]))
    logs = {label: [math.log(dwell) for dwell, converted in rows if converted is label] for label in (True, False)}
    if not (logs[True] and logs[False]):
        assert np.isnan([found.corr[0], found.w[0], found.b[0], found.std_error[0]]).all()
        return
    mean_1, mean_0 = statistics.fmean(logs[True]), statistics.fmean(logs[False])
    assert found.corr[0] == pytest.approx(mean_1 - mean_0, abs=2e-6)
    squares = sum((x - mean) ** 2 for label, mean in ((True, mean_1), (False, mean_0)) for x in logs[label])
    variance = squares / (len(rows) - 2)
    if variance < 0.01:  # sums of millionths say little about less
        return
    n_1, n_0 = len(logs[True]), len(logs[False])
    assert found.w[0] == pytest.approx((mean_1 - mean_0) / variance, rel=1e-2, abs=1e-3)
    assert found.std_error[0] == pytest.approx(math.sqrt(variance * (1 / n_1 + 1 / n_0)), rel=1e-2)
    b = math.log(n_1 / n_0) - (mean_1**2 - mean_0**2) / (2 * variance)
    assert found.b[0] == pytest.approx(b, rel=1e-2, abs=2e-2)
    likelihood = [math.exp(-((9.0 - mean) ** 2) / (2 * variance)) * n for mean, n in ((mean_1, n_1), (mean_0, n_0))]
    expected = likelihood[0] / sum(likelihood) if sum(likelihood) > 1e-200 else None
    if expected is not None:  # Bayes' rule, equations (3) to (5), at a dwell of e^9 ms
        assert found.conversion_probability(np.array([math.exp(9.0)]))[0] == pytest.approx(expected, abs=2e-2)


def test_w_and_b_recover_a_planted_law_and_agree_with_a_fitted_logistic_regression():
    rng = np.random.default_rng(1)
    label = rng.random(200_000) < 0.2
    log = rng.normal(9 + 0.6 * label, 0.8)
    found = correlate(sums([list(zip(np.exp(log), label, strict=True))]))
    w, b = 0.6 / 0.64, math.log(0.2 / 0.8) - (9.6**2 - 81) / (2 * 0.64)
    assert found.w[0] == pytest.approx(w, rel=0.03)
    assert found.b[0] == pytest.approx(b, rel=0.03)
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(log[:, None] - 9, label)
    assert found.w[0] == pytest.approx(fitted.coef_[0, 0], rel=0.03)
    assert found.b[0] + 9 * found.w[0] == pytest.approx(fitted.intercept_[0], abs=0.03)
    assert found.w[0] > 0, "where dwell rises before conversions, (7) is positive and so is the slope of (6) as we write it"


def test_shrinkage_finds_the_common_law_and_comes_nearer_to_the_truth():
    data, truth = simulated(3000, 0.4, 0.3, 0.9, np.random.default_rng(2))
    common = population_of(data)
    assert common.mean == pytest.approx(0.4, abs=0.03)
    assert math.sqrt(common.variance_between) == pytest.approx(0.3, abs=0.05)
    assert math.sqrt(common.variance_within) == pytest.approx(0.9, abs=0.02)
    raw, drawn = correlate(data), correlate(data, common)
    known = ~np.isnan(drawn.corr)
    assert np.mean((drawn.corr - truth)[known] ** 2) < 0.5 * np.mean((raw.corr - truth)[known] ** 2)
    z = ((drawn.corr - truth) / drawn.std_error)[known]
    assert np.mean(np.abs(z) < 1.96) == pytest.approx(0.95, abs=0.02), "the standard error says how far off it is"
    assert (np.isnan(drawn.corr) == ((data.n_1 == 0) | (data.n_0 == 0))).all(), "one class says nothing, with or without shrinkage"


def test_users_that_do_not_differ_are_drawn_to_their_mean():
    data, _ = simulated(500, 0.2, 0.0, 1.0, np.random.default_rng(3))
    common = population_of(data)
    assert common.variance_between < 0.01
    drawn = correlate(data, common).corr
    assert np.nanstd(drawn) < 0.1 * np.nanstd(correlate(data).corr)


@pytest.mark.parametrize("rows", [[], [[]], [[(1000, True)]], [[(1000, True), (1000, False)]], [[(1000, True)], [(500, False)]]])
def test_too_little_has_no_common_law(rows):
    assert population_of(sums(rows)) is None
    assert np.isnan(correlate(sums(rows)).w).all()


def test_spark_adds_up_the_same_common_law(spark):
    data, _ = simulated(200, 0.4, 0.3, 0.9, np.random.default_rng(4), most=12)
    columns = [values.tolist() for values in (data.n_1, data.n_0, data.sum_1, data.sum_0, data.square_1, data.square_0)]
    names = ", ".join(f"{name} long" for name in SUMS)
    rows = [("feed", *row) for row in zip(*columns, strict=True)] + [("reels", 1, 1, 5, 5, 25, 25)]
    found = populations(spark.createDataFrame(rows, f"surface string, {names}"))
    ours = population_of(data)
    assert found["reels"] is None
    for name in ("mean", "variance_between", "variance_within"):
        assert getattr(found["feed"], name) == pytest.approx(getattr(ours, name), rel=1e-6)


def test_thresholds_by_share_leave_that_share_of_the_impressions_active():
    rng = np.random.default_rng(6)
    corr, impressions = rng.normal(0, 1, 1000), rng.integers(1, 50, 1000).astype(float)
    corr[::10] = np.nan
    for share in (0.1, 0.5, 0.6667, 0.85):
        (epsilon,) = thresholds_of(corr, impressions, replace(CONFIG, active_share=share))
        active = levels(corr, (epsilon,)) == 1
        held = impressions[active].sum() / impressions.sum()
        assert share <= held < share + 0.01
        assert not active[::10].any(), "users without a corr are passive"
    (epsilon,) = thresholds_of(corr, impressions, replace(CONFIG, active_share=0.99))
    assert (levels(corr, (epsilon,)) == 1).sum() >= 899, "as many as have one, where the share cannot be had"


def test_equal_users_are_on_one_side_and_levels_are_above_their_threshold():
    corr = np.array([0.5, -0.5, 0.5, 0.1, -0.2, np.nan])
    (epsilon,) = thresholds_of(corr, np.ones(6), replace(CONFIG, active_share=0.2))
    assert epsilon == 0.2
    assert levels(corr, (epsilon,)).tolist() == [1, 1, 1, 0, 0, 0], "(9) is about the absolute value, and epsilon itself is passive"
    assert levels(corr, (0.1, 0.2)).tolist() == [2, 2, 2, 0, 1, 0]
    assert thresholds_of(corr, np.ones(6), DynamixConfig(threshold="given", thresholds=(0.3, 0.4))) == (0.3, 0.4)
    assert DynamixConfig(threshold="given", thresholds=(0.1, 0.5)).segments == ("passive", "active", "active_2")
    assert thresholds_of(np.full(3, np.nan), np.ones(3), CONFIG) == (0.0,)

"""The metrics of predicted values against hand-computed ones and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alure_spark.errors import DataError
from alure_spark.value_metrics import (
    decile_error,
    deciles,
    expected_over_observed,
    fit_factor,
    normalized_gini,
    rmse_over_mean,
)

ALL = (normalized_gini, expected_over_observed, rmse_over_mean, decile_error, fit_factor)


@st.composite
def evaluated(draw):
    """(values of which one is 0 and one is not, predictions with ties, small integer weights that leave both)."""
    n = draw(st.integers(2, 25))
    values = [0, 7, *draw(st.lists(st.integers(0, 9), min_size=n - 2, max_size=n - 2))]
    predicted = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    weights = [1, 1, *draw(st.lists(st.integers(0, 3), min_size=n - 2, max_size=n - 2))]
    return np.array(values, float), np.array(predicted, float), np.array(weights, float)


def naive_gini(values, order):
    """Mean over both orders of ties: 1 less than twice the area under the Lorenz curve, row by row."""
    areas = []
    for tie in (1, -1):
        ranked = [value for _, _, value in sorted(zip(-order, tie * values, values, strict=True))]
        shares = np.append(0, np.cumsum(ranked)) / np.sum(ranked)
        areas.append(np.mean((shares[1:] + shares[:-1]) / 2))
    return 2 * np.mean(areas) - 1


@settings(deadline=None)
@given(evaluated())
def test_gini_is_that_of_a_plain_loop_and_a_weight_is_a_repetition(world):
    values, predicted, weights = world
    expected = naive_gini(values, predicted) / naive_gini(values, values)
    assert normalized_gini(values, predicted) == pytest.approx(expected, abs=1e-9)
    times = weights.astype(int)
    for metric in ALL:
        repeated = metric(np.repeat(values, times), np.repeat(predicted, times))
        assert metric(values, predicted, weights) == pytest.approx(repeated, rel=1e-9, abs=1e-12), metric.__name__
    order = np.random.default_rng(1).permutation(len(values))
    for metric in ALL:
        assert metric(values[order], predicted[order], weights[order]) == pytest.approx(metric(values, predicted, weights), abs=1e-12)


def test_the_order_of_the_truth_is_1_the_opposite_minus_1_and_no_order_0():
    values = np.array([0, 0, 0, 3, 8.0])
    assert normalized_gini(values, values**2) == pytest.approx(1)
    assert normalized_gini(values, -values + 9) == pytest.approx(-1)
    assert normalized_gini(values, np.full(5, 2.2)) == pytest.approx(0)
    # Sorted by prediction 8, 0, 0, 0, 3: the area under the Lorenz curve is (4 + 8 + 8 + 8 + 9.5) / 55 = 37.5 / 55; that of the truth is
    # (4 + 9.5 + 11 + 11 + 11) / 55 = 46.5 / 55.
    assert normalized_gini(values, [3, 4, 3.5, 1, 5]) == pytest.approx((2 * 37.5 / 55 - 1) / (2 * 46.5 / 55 - 1))


def test_level_and_error_are_those_computed_by_hand():
    values, predicted = np.array([0.0, 0, 0, 8]), np.array([1.0, 1, 1, 6])
    assert expected_over_observed(values, predicted) == pytest.approx(9 / 8)
    assert rmse_over_mean(values, predicted) == pytest.approx(np.sqrt((3 * 1 + 4) / (3 * 4 + 36)))
    assert rmse_over_mean(values, np.full(4, 2.0)) == pytest.approx(1)
    assert decile_error(values, predicted) == pytest.approx((3 * 1 + 2) / 8)
    assert decile_error(values, values) == 0


def test_deciles_are_of_equal_weight_by_rising_prediction_and_ties_share_one():
    random = np.random.default_rng(2)
    predicted = random.gamma(1, 5, 1000)
    values = predicted * random.poisson(1, 1000)
    table = deciles(values, predicted)
    order = np.argsort(predicted)
    for place, part in enumerate(np.split(order, 10)):
        assert table.predicted[place] == pytest.approx(predicted[part].mean())
        assert table.observed[place] == pytest.approx(values[part].mean())
    assert table.rows.tolist() == [100] * 10
    assert len(deciles(values, np.full(1000, 3.0)).rows) == 1


def test_the_factor_brings_the_mean_to_that_of_the_values_but_for_one_row():
    values, predicted = np.array([0.0, 0, 4, 8] * 100), np.array([1.0, 1, 1, 3] * 100)
    assert fit_factor(values, predicted) == pytest.approx((1200 + 6) / (600 + 6))
    assert fit_factor(values, predicted, prior=0.0) == pytest.approx(2)
    assert fit_factor(np.zeros(4), np.ones(4)) == 1
    assert fit_factor([0, 1000.0], [0.001, 0.001]) < 2.01, "one value of one row does not decide alone"


@pytest.mark.parametrize(
    ("values", "predicted", "weights", "says"),
    [
        ([], [], None, "there is no row"),
        ([1, 2], [1], None, "must be .n,. of one length"),
        ([1, -2], [1, 1], None, "1 of 2 values are no finite numbers of at least 0, as -2"),
        ([1, np.nan], [1, 1], None, "1 of 2 values are no finite numbers of at least 0, as nan"),
        ([1, 0], [np.inf, 1], None, "1 of 2 predictions are no finite numbers of at least 0, as inf"),
        ([1, 0], [1, 1], [-1, 1], "weights must be"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(values, predicted, weights, says):
    for metric in ALL:
        with pytest.raises(DataError, match=says):
            metric(values, predicted, weights)


def test_values_that_are_all_0_or_all_equal_have_no_order():
    for metric in ALL[:4]:
        with pytest.raises(DataError, match="none of 3 values is above 0"):
            metric([0, 0, 0], [1, 2, 3])
    for metric in (normalized_gini, rmse_over_mean):
        with pytest.raises(DataError, match="all 3 values are 5"):
            metric([5, 5, 5], [1, 2, 3])

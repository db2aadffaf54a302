"""The metrics against hand-computed values, brute force and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from alure_spark.errors import DataError
from alure_spark.metrics import (
    auc,
    calibration,
    calibration_curve,
    cluster_bootstrap,
    fit_calibration,
    grouped_auc,
    normalized_entropy,
    paired_interval,
)


@st.composite
def evaluated(draw):
    """(labels with both classes, scores with ties, small integer weights that leave both classes)."""
    n = draw(st.integers(2, 25))
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))]
    scores = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))
    weights = [1, 1, *draw(st.lists(st.integers(0, 3), min_size=n - 2, max_size=n - 2))]
    return np.array(labels, float), np.array(scores, float), np.array(weights, float)


def test_normalized_entropy_equals_a_value_computed_by_hand():
    # Base rate 1/4: entropy 1/4 ln 4 + 3/4 ln 4/3. Cross entropy: one positive at .5, negatives at .5, .2, .2.
    by_hand = (2 * math.log(2) + 2 * math.log(1 / 0.8)) / 4 / (math.log(4) / 4 + 3 * math.log(4 / 3) / 4)
    assert normalized_entropy([1, 0, 0, 0], [0.5, 0.5, 0.2, 0.2]) == pytest.approx(by_hand, rel=1e-12)


@settings(deadline=None)
@given(evaluated())
def test_the_base_rate_has_a_normalized_entropy_of_one_and_a_weight_is_a_repetition(world):
    labels, scores, weights = world
    rate = np.average(labels, weights=weights)
    assert normalized_entropy(labels, np.full(len(labels), rate), weights) == pytest.approx(1, rel=1e-9)
    times = weights.astype(int)
    repeated = [np.repeat(values, times) for values in (labels, scores)]
    probabilities, repeated_probabilities = expit(scores), expit(repeated[1])
    for metric in (normalized_entropy, calibration):
        assert metric(labels, probabilities, weights) == pytest.approx(metric(repeated[0], repeated_probabilities), rel=1e-9)
    assert auc(labels, scores, weights) == pytest.approx(auc(*repeated), rel=1e-9)
    groups = np.arange(len(labels)) % 3
    together = grouped_auc(labels, scores, groups, weights), grouped_auc(*repeated, np.repeat(groups, times))
    assert together[0] == together[1] or together[0] == pytest.approx(together[1], rel=1e-9)
    assert fit_calibration(scores, labels, weights) == pytest.approx(fit_calibration(repeated[1], repeated[0]), abs=1e-4)
    curves = calibration_curve(labels, probabilities, 4, weights), calibration_curve(repeated[0], repeated_probabilities, 4)
    np.testing.assert_allclose(curves[0][:2], curves[1][:2])


@settings(deadline=None)
@given(evaluated())
def test_auc_is_the_share_of_well_ordered_pairs_and_only_the_order_of_scores_counts(world):
    labels, scores, weights = world
    won = pairs = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            if labels[i] and not labels[j]:
                pairs += weights[i] * weights[j]
                won += weights[i] * weights[j] * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    assert auc(labels, scores, weights) == pytest.approx(won / pairs, rel=1e-9)
    assert auc(labels, np.exp(scores / 3) - 7, weights) == pytest.approx(auc(labels, scores, weights), rel=1e-12)
    assert auc(labels, -scores, weights) == pytest.approx(1 - auc(labels, scores, weights), rel=1e-9)


def test_grouped_auc_weights_the_groups_with_both_classes_by_their_rows():
    labels = [1, 0, 1, 0, 0, 0, 1, 1]
    scores = [2, 1, 1, 2, 0, 9, 9, 9]
    groups = ["a", "a", "b", "b", "b", "c", "d", "d"]
    # a: 1 of 1 pair; b: 1 of 2 pairs; c and d have one class.
    assert grouped_auc(labels, scores, groups) == pytest.approx((2 * 1.0 + 3 * 0.5) / 5)
    shifted = np.array(scores) + np.array([{"a": 5, "b": -8, "c": 1, "d": 0}[group] for group in groups])
    assert grouped_auc(labels, shifted, groups) == grouped_auc(labels, scores, groups)
    assert grouped_auc([0, 0, 1], [1, 2, 3], [1, 1, 2]) is None


@pytest.mark.parametrize("seed", range(5))
def test_grouped_auc_is_the_weighted_mean_of_the_auc_of_each_group(seed):
    random = np.random.default_rng(seed)
    groups, scores = random.integers(0, 40, 400), random.integers(0, 6, 400).astype(float)
    labels, weights = (random.random(400) < 0.3).astype(float), random.integers(0, 4, 400).astype(float)
    per_group = []
    for group in np.unique(groups):
        rows = (groups == group) & (weights > 0)
        if len(set(labels[rows])) == 2:
            per_group.append((weights[rows].sum(), roc_auc_score(labels[rows], scores[rows], sample_weight=weights[rows])))
    mass, values = np.array(per_group).T
    assert len(per_group) > 20
    assert len(set(values)) > 10
    assert grouped_auc(labels, scores, groups, weights) == pytest.approx(np.average(values, weights=mass), rel=1e-9)


def test_the_calibration_curve_has_bins_of_equal_count_and_keeps_equal_probabilities_together():
    probabilities = np.array([0.1, 0.1, 0.2, 0.4, 0.5, 0.9])
    labels = np.array([0, 1, 0, 0, 1, 1])
    curve = calibration_curve(labels, probabilities, 3)
    np.testing.assert_allclose(curve.probability, [0.1, 0.3, 0.7])
    np.testing.assert_allclose(curve.label, [0.5, 0.0, 1.0])
    assert curve.rows.tolist() == [2, 2, 2]
    tied = calibration_curve(labels, np.full(6, 0.3), 3)
    assert (tied.rows.tolist(), tied.label.tolist()) == ([6], [0.5])
    assert calibration(labels, probabilities) == pytest.approx(2.2 / 3)


def test_fit_calibration_finds_a_planted_distortion_and_stays_near_one_and_zero_with_few_rows():
    random = np.random.default_rng(5)
    true = random.normal(-1, 2, 40_000)
    labels = (random.random(40_000) < expit(true)).astype(float)
    scale, offset = fit_calibration((true - 0.7) / 0.5, labels)  # true = 0.5 * logit + 0.7
    assert (scale, offset) == (pytest.approx(0.5, abs=0.03), pytest.approx(0.7, abs=0.04))
    calibrated = expit(scale * (true - 0.7) / 0.5 + offset)
    assert calibration(labels, calibrated) == pytest.approx(1, abs=0.001)
    few = fit_calibration(np.array([0.1, -0.2, 0.3]), np.ones(3))
    assert abs(few.scale - 1) < 0.3
    assert 0 < few.offset < 1.5, "one class alone must not run away"


def test_the_bootstrap_draws_whole_groups_and_pairs_two_models():
    # Every household has 10 equal rows, so rows bring no more certainty than their 60 households: the width must be that of 60.
    random = np.random.default_rng(1)
    per_group = random.normal(size=60)
    rows, groups = np.repeat(per_group, 10), np.repeat(np.arange(60) * 7 + 3, 10)
    low, high = cluster_bootstrap(lambda weights: float(np.average(rows, weights=weights)), groups, 2000)
    assert high - low == pytest.approx(2 * 1.96 * per_group.std() / math.sqrt(60), rel=0.1)
    assert low < rows.mean() < high
    labels = np.tile([0, 1], 300)
    good, worse = expit(3.0 * labels - 1.5), expit(2.8 * labels - 1.4)
    gap = cluster_bootstrap(
        lambda weights: normalized_entropy(labels, worse, weights) - normalized_entropy(labels, good, weights), groups, 200
    )
    assert gap.low > 0, "a paired difference is far more certain than either figure"
    again = cluster_bootstrap(lambda weights: float(np.average(rows, weights=weights)), groups, 2000)
    assert again == (low, high)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(12)))
def test_the_order_of_rows_does_not_matter(order):
    labels = np.array([0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1], float)
    probabilities = np.array([1, 3, 2, 2, 5, 4, 4, 1, 2, 1, 3, 8]) / 10
    groups, order = np.arange(12) // 3, np.array(order)
    both = [(values[order], values) for values in (labels, probabilities, groups)]
    (y, y_), (p, p_), (g, g_) = both
    assert normalized_entropy(y, p) == pytest.approx(normalized_entropy(y_, p_))
    assert grouped_auc(y, p, g) == pytest.approx(grouped_auc(y_, p_, g_))
    np.testing.assert_allclose(calibration_curve(y, p, 4), calibration_curve(y_, p_, 4))

    def interval(labels, probabilities, groups):
        return cluster_bootstrap(lambda weights: auc(labels, probabilities, weights), groups, 50)

    assert interval(y, p, g) == pytest.approx(interval(y_, p_, g_))


@pytest.mark.parametrize(
    ("metric", "arguments", "says"),
    [
        (normalized_entropy, ([], []), "no row"),
        (normalized_entropy, ([0, 1], [0.5, math.nan]), "NaN"),
        (normalized_entropy, ([1, 1], [0.5, 0.5]), "both classes"),
        (normalized_entropy, ([0, 1], [0.5, 0.5], [1, 0]), "both classes"),
        (normalized_entropy, ([0, 1], [-2.0, 3.0]), "not logits"),
        (auc, ([0, 0], [1, 2]), "both classes"),
        (auc, ([0, 2], [1, 2]), "a label is 2.0"),
        (auc, ([0, 1], [1, 2], [1, -1]), "weights"),
        (auc, ([0, 1, 1], [1, 2]), "one length"),
        (calibration, ([0, 0], [0.1, 0.2]), "none of 2 labels"),
        (cluster_bootstrap, (lambda weights: auc([0, 1], [1, 2], weights), [1, 2], 100), "not defined on"),
        (cluster_bootstrap, (lambda weights: 0.0, []), "no rows"),
        (cluster_bootstrap, (lambda weights: auc([0, 1], [1, math.nan], weights), [1, 2], 100), "NaN"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_a_sentence(metric, arguments, says):
    with pytest.raises(DataError, match=says):
        metric(*arguments)


def test_a_certain_and_wrong_prediction_costs_much_but_stays_finite():
    assert 10 < normalized_entropy([0, 1, 0, 1], [0, 0, 0, 1]) < 100


def test_a_given_slope_stays_and_the_offset_makes_the_mean_right():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=4000), (random.random(4000) < 0.3).astype(float)
    found = fit_calibration(logits, labels, scale=0.7)
    assert found.scale == 0.7
    assert (1 / (1 + np.exp(-(0.7 * logits + found.offset)))).mean() == pytest.approx(labels.mean(), abs=1e-3)


def test_a_paired_interval_covers_the_true_difference_about_as_often_as_it_says():
    random = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        shared = random.normal(size=80)
        interval = paired_interval(shared + random.normal(0.3, 1, 80), shared, resamples=300, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_paired_interval_leaves_out_users_that_one_side_lacks_and_repeats_itself():
    a, b = np.asarray([1.0, np.nan, 3.0, 5.0]), np.asarray([0.0, 7.0, np.nan, 3.0])
    interval = paired_interval(a, b, resamples=500)
    assert interval.difference == 1.5
    assert (interval.low, interval.high) == (1, 2)
    values = np.random.default_rng(3).normal(size=30)
    assert paired_interval(values, values**2) == paired_interval(values, values**2)
    assert paired_interval(values, values**2) != paired_interval(values, values**2, seed=8)
    narrow = paired_interval(a, b, resamples=500, level=0.2)
    assert interval.low <= narrow.low <= narrow.high <= interval.high


def test_a_paired_interval_of_nobody_is_nan():
    assert np.isnan(paired_interval(np.zeros(0), np.zeros(0))).all()
    assert np.isnan(paired_interval([np.nan], [1.0])).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(0, 9))
def test_a_paired_interval_is_the_bootstrap_of_the_mean_with_a_user_per_row(values, seed):
    values = np.array(values)
    paired = paired_interval(values, np.zeros(len(values)), 100, seed)
    rows = np.arange(len(values))
    assert paired[1:] == pytest.approx(cluster_bootstrap(lambda weights: np.average(values, weights=weights), rows, 100, seed), abs=1e-9)

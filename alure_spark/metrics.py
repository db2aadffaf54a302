"""How good are predicted probabilities? Normalized entropy, AUC, calibration, and intervals by resampling users.

Why here: training, analysis and the benchmarks evaluate by the same numbers. Enters: labels and predictions of the same n rows, both (n,).
Leaves: floats. Every metric takes `weights` (n,), for instance a row's `weight` of training_examples, or how often its user was drawn:
that is how `cluster_bootstrap` gives an interval to any metric, and to any difference of two models on the same rows, without copying a
row. `paired_interval` is the same for a mean of users. NE: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook" (2014).

Every function raises DataError on empty input, arrays of different lengths, NaN, labels other than 0 and 1, or weights that are
negative or all 0; where a metric needs both classes, on labels of one class too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from .errors import DataError

EPSILON = np.finfo(np.float64).eps  # a probability of exactly 0 or 1 counts as this far from it (as in scikit-learn's log_loss)
UNDEFINED_SHARE = 0.1  # of the draws, at most, may lack a class


class CalibrationCurve(NamedTuple):
    """Per bin, by rising probability: (B,) each."""

    probability: np.ndarray  # float64 mean prediction
    label: np.ndarray  # float64 mean label
    rows: np.ndarray  # int64


class Calibration(NamedTuple):
    """calibrated probability = sigmoid(scale * logit + offset); (1, 0) changes nothing."""

    scale: float
    offset: float


class Interval(NamedTuple):
    low: float
    high: float


class Difference(NamedTuple):
    """A mean difference and its interval."""

    difference: float
    low: float
    high: float


def normalized_entropy(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Cross entropy of the probabilities / entropy of the mean label: 1 is as good as knowing the base rate only, lower is better."""
    labels, probabilities, weights = _checked(labels, probabilities, weights, both_classes=True)
    _require_probabilities(probabilities)
    probabilities = np.clip(probabilities, EPSILON, 1 - EPSILON)
    rate = np.average(labels, weights=weights)
    cross_entropy = -np.average(np.log(np.where(labels == 1, probabilities, 1 - probabilities)), weights=weights)
    return float(cross_entropy / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Share of the (positive, negative) pairs in which the positive scores higher; a tie counts half. O(n log n)."""
    labels, scores, weights = _checked(labels, scores, weights, both_classes=True)
    return float(roc_auc_score(labels, scores, sample_weight=weights))


def grouped_auc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Mean AUC over the groups (n,) that have both classes, each weighted by its rows (by the sum of its weights).

    None where no group has both. It asks how well the impressions of one user are ordered; an offset per user does not change it.
    All groups at once: scikit-learn's AUC takes a millisecond for each, and there are as many as users.
    """
    labels, scores, weights = _checked(labels, scores, weights)
    _, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((scores, group))
    group, scores = group[order], scores[order]
    is_new_group = np.diff(group, prepend=-1) > 0
    starts = np.flatnonzero(is_new_group | np.append(True, np.diff(scores) != 0))  # of the runs of equal scores in a group
    positive, negative = (np.add.reduceat(values[order], starts) for values in (weights * labels, weights * (1 - labels)))
    owner = group[starts]
    below = np.cumsum(negative) - negative
    below -= below[is_new_group[starts]][owner]
    wins, positives, negatives = (np.bincount(owner, values) for values in (positive * (below + negative / 2), positive, negative))
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return None
    return float(np.average(wins[both] / (positives * negatives)[both], weights=(positives + negatives)[both]))


def calibration(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Expected positives / positives: above 1 the model promises too much. Raises DataError without a positive."""
    labels, probabilities, weights = _checked(labels, probabilities, weights)
    _require_probabilities(probabilities)
    if not weights @ labels:
        raise DataError(f"none of {len(labels):,} labels is 1: calibration is not defined; give rows with at least one positive")
    return float(weights @ probabilities / (weights @ labels))


def calibration_curve(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10, weights: np.ndarray | None = None) -> CalibrationCurve:
    """Mean prediction and mean label in at most `bins` bins of about equal weight. Equal probabilities share a bin."""
    labels, probabilities, weights = _checked(labels, probabilities, weights)
    _require_probabilities(probabilities)
    return CalibrationCurve(*binned(probabilities, labels, weights, bins)[:3])


def binned(predicted: np.ndarray, values: np.ndarray, weights: np.ndarray, bins: int) -> tuple[np.ndarray, ...]:
    """(mean prediction, mean value, rows, their weight) per bin, (B,) each: at most `bins` of about equal weight, by rising prediction.

    predicted, values and weights are (n,).
    """
    _, place = np.unique(predicted, return_inverse=True)
    weight = np.bincount(place, weights)
    # A distinct prediction belongs to the bin in which its first row falls: no order among equal rows can change the curve.
    bin_ = (bins * (np.cumsum(weight) - weight) / weight.sum()).astype(int).clip(max=bins - 1)[place]
    mass, count = np.bincount(bin_, weights), np.bincount(bin_)
    used = mass > 0
    means = [np.bincount(bin_, weights * of)[used] / mass[used] for of in (predicted, values)]
    return means[0], means[1], count[used], mass[used]


def fit_calibration(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, prior: float = 1.0, scale: float | None = None
) -> Calibration:
    """Logistic fit of labels on sigmoid(scale * logit + offset) (Platt, 1999), drawn towards (1, 0); a given scale stays.

    Minimises the summed log loss + prior / 2 * ((scale - 1)^2 + offset^2), which is strictly convex: with few rows, or one class
    only, the answer stays near (1, 0) instead of running away.
    """
    labels, logits, weights = _checked(labels, logits, weights)

    may_move = np.array([scale is None, True])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        shift = parameters - (1.0, 0.0)
        z = parameters[0] * logits + parameters[1]
        residual = weights * (expit(z) - labels)
        value = weights @ (np.logaddexp(0, z) - labels * z) + prior / 2 * shift @ shift
        return value, (np.array([residual @ logits, residual.sum()]) + prior * shift) * may_move

    fitted = minimize(loss, (1.0 if scale is None else scale, 0.0), jac=True, method="BFGS").x
    return Calibration(float(fitted[0]), float(fitted[1]))


def cluster_bootstrap(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray, resamples: int = 1000, seed: int = 7, level: float = 0.95
) -> Interval:
    """Percentile interval of statistic(weights) when whole groups (n,), e.g. users, are drawn with replacement.

    A draw is a weight per row: how often its group was drawn, (n,) float64. The same groups and seed give the same draws, and a
    difference inside `statistic` is a paired one: `lambda w: normalized_entropy(y, p, w) - normalized_entropy(y, q, w)`.
    A draw on which the statistic raises DataError (it lacks a class) is left out; raises DataError when more than one in ten is.
    """
    _, group = np.unique(groups, return_inverse=True)
    if not len(group):
        raise DataError("a bootstrap of no rows: give at least one row")
    statistic(np.ones(len(group)))  # a broken input is told as what it is, not as too few groups
    size = int(group.max()) + 1
    values = []
    for drawn in _draws(size, resamples, seed):
        times = np.bincount(drawn, minlength=size).astype(np.float64)
        try:
            values.append(statistic(times[group]))
        except DataError:
            continue
    if len(values) < (1 - UNDEFINED_SHARE) * resamples:
        raise DataError(
            f"the statistic is not defined on {resamples - len(values)} of {resamples} draws of {size} groups: "
            "too few groups, or too few with both classes; evaluate on more rows"
        )
    return _percentile_interval(values, level)


def paired_interval(a: np.ndarray, b: np.ndarray, resamples: int = 1000, seed: int = 7, level: float = 0.95) -> Difference:
    """Mean of a - b over the users with both, and its percentile bootstrap interval over users; NaNs when there is no such user.

    As `cluster_bootstrap` of that mean with a user per row.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    difference = difference[~np.isnan(difference)]
    if not len(difference):
        return Difference(np.nan, np.nan, np.nan)
    means = [float(difference[drawn].mean()) for drawn in _draws(len(difference), resamples, seed)]
    return Difference(float(difference.mean()), *_percentile_interval(means, level))


def _draws(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Per resample (size,) int64 numbers below size, drawn with replacement."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield random.integers(0, size, size)


def _percentile_interval(values: list[float], level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _checked(
    labels: np.ndarray, values: np.ndarray, weights: np.ndarray | None, both_classes: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels, values, weights) as (n,) float64, or DataError."""
    labels, values = np.asarray(labels, np.float64), np.asarray(values, np.float64)
    weights = np.ones(labels.shape) if weights is None else np.asarray(weights, np.float64)
    if not labels.shape == values.shape == weights.shape or labels.ndim != 1:
        raise DataError(f"labels {labels.shape}, predictions {values.shape} and weights {weights.shape} must be (n,) of one length")
    if not len(labels):
        raise DataError("there is no row to evaluate: give at least one")
    if np.isnan(values).any():
        raise DataError(f"{np.isnan(values).sum():,} of {len(values):,} predictions are NaN: the model or its input is broken")
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"a label is {labels[~np.isin(labels, (0, 1))][0]}; allowed: 0 and 1")
    if not (weights >= 0).all() or not weights.any():
        raise DataError("weights must be numbers of at least 0, and not all 0")
    positive = weights @ labels
    if both_classes and not 0 < positive < weights.sum():
        raise DataError(f"all {len(labels):,} labels are {int(positive > 0)}: both classes are needed; evaluate on more rows or users")
    return labels, values, weights


def _require_probabilities(values: np.ndarray) -> None:
    if values.min() < 0 or values.max() > 1:
        raise DataError(f"probabilities lie between {values.min():.4g} and {values.max():.4g}; allowed: 0 to 1 (not logits)")

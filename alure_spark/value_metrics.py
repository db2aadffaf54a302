"""How good are predicted values, numbers of at least 0 of which most may be 0? Order (Gini), level (calibration, deciles), and error.

Enters: values and predictions of the same n rows, (n,) each, and `weights` (n,), as of metrics.py. Leaves: floats, and a table by deciles.
Wang, Liu and Miao 2019 (arXiv 1912.07753), section 4.2, for the normalized Gini coefficient and the deciles.

Every function raises DataError on empty input, arrays of different lengths, a NaN, a value or prediction below 0, or weights that are
negative or all 0; all but `deciles` and `fit_factor` where no value is above 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .errors import DataError
from .metrics import binned

DECILES = 10


class Deciles(NamedTuple):
    """Per bin of about equal weight, by rising prediction: (B,) each."""

    predicted: np.ndarray  # float64 mean
    observed: np.ndarray  # float64 mean
    rows: np.ndarray  # int64


def normalized_gini(values: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Gini coefficient of the values in the order of predictions / in their own order: 1 is the best order, 0 is no better than chance.

    Equal predictions are one step of the Lorenz curve, so that the order of rows does not matter. Raises DataError where all values are
    equal: then no order is better than another.
    """
    values, predicted, weights = _checked(values, predicted, weights)
    largest = _area(values, values, weights)
    if not largest > 0:
        raise DataError(f"all {len(values):,} values are {values[0]:g}: no order is better than another; evaluate on more rows")
    return _area(values, predicted, weights) / largest


def _area(values: np.ndarray, order: np.ndarray, weights: np.ndarray) -> float:
    """Between the diagonal and the Lorenz curve of values (n,) by falling order (n,): half of the Gini coefficient."""
    _, place = np.unique(-order, return_inverse=True)
    weight, value = np.bincount(place, weights), np.bincount(place, weights * values)
    x, y = (np.append(0.0, np.cumsum(part)) / part.sum() for part in (weight, value))
    return float(np.diff(x) @ (y[1:] + y[:-1]) / 2 - 0.5)


def expected_over_observed(values: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean prediction / mean value: above 1 the model promises too much; 1 less than it is the relative error of the mean."""
    values, predicted, weights = _checked(values, predicted, weights)
    return float(weights @ predicted / (weights @ values))


def rmse_over_mean(values: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Root of the mean squared error / that of the mean value as the prediction: 1 is as good as knowing the mean only, lower is better.

    Raises DataError where all values are equal.
    """
    values, predicted, weights = _checked(values, predicted, weights)
    variance = np.average((values - np.average(values, weights=weights)) ** 2, weights=weights)
    if not variance > 0:
        raise DataError(f"all {len(values):,} values are {values[0]:g}, which their mean predicts without an error; evaluate on more rows")
    return float(np.sqrt(np.average((values - predicted) ** 2, weights=weights) / variance))


def deciles(values: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None, bins: int = DECILES) -> Deciles:
    """Mean prediction and mean value of each tenth of the rows, by rising prediction. Equal predictions share a bin."""
    values, predicted, weights = _checked(values, predicted, weights, any_value=False)
    return Deciles(*binned(predicted, values, weights, bins)[:3])


def decile_error(values: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean over the rows of |mean prediction - mean value| of their decile, as a share of the mean value: 0 is a level right everywhere.

    It is not the mean of relative errors, as in the paper: a decile may have no value above 0.
    """
    values, predicted, weights = _checked(values, predicted, weights)
    expected, observed, _, mass = binned(predicted, values, weights, DECILES)
    return float(np.abs(expected - observed) @ mass / (weights @ values))


def fit_factor(values: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None, prior: float = 1.0) -> float:
    """By what predictions are multiplied so that their mean is that of the values; 1 where no value is above 0.

    Drawn towards 1 by as much as `prior` further rows would, whose value and prediction are the mean of the values above 0.
    """
    values, predicted, weights = _checked(values, predicted, weights, any_value=False)
    above = values > 0
    if not (weights @ above) > 0:
        return 1.0
    typical = prior * (weights @ values) / (weights @ above)
    return float((weights @ values + typical) / (weights @ predicted + typical))


def _checked(
    values: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, any_value: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, predicted, weights) as (n,) float64, or DataError; any_value: one above 0 is needed."""
    values, predicted = np.asarray(values, np.float64), np.asarray(predicted, np.float64)
    weights = np.ones(values.shape) if weights is None else np.asarray(weights, np.float64)
    if not values.shape == predicted.shape == weights.shape or values.ndim != 1:
        raise DataError(f"values {values.shape}, predictions {predicted.shape} and weights {weights.shape} must be (n,) of one length")
    if not len(values):
        raise DataError("there is no row to evaluate: give at least one")
    for name, given in (("value", values), ("prediction", predicted)):
        wrong = ~(np.isfinite(given) & (given >= 0))
        if wrong.any():
            raise DataError(f"{wrong.sum():,} of {len(given):,} {name}s are no finite numbers of at least 0, as {given[wrong][0]:g}")
    if not (weights >= 0).all() or not weights.any():
        raise DataError("weights must be numbers of at least 0, and not all 0")
    if any_value and not weights @ values > 0:
        raise DataError(f"none of {len(values):,} values is above 0; evaluate on more rows")
    return values, predicted, weights

"""Tasks whose label is a number: what their labels say before training, and how good the expected values are after it.

Enters: batches of the training split; expected values of the validation split. Leaves: where a network starts, metrics, a calibration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .. import value_metrics
from ..errors import DataError


def require_values(task: str, labels: Tensor, split: str) -> None:
    """Raises DataError unless labels (M,) of a split are finite numbers of at least 0."""
    wrong = ~(labels.isfinite() & (labels >= 0))
    if bool(wrong.any()):
        raise DataError(
            f"the value task '{task}' has a label of {float(labels[wrong][0]):g} in the {split} split; allowed: finite numbers of at least "
            f"0: leave refunds out (labels.tasks.{task}.at_least), or sum another column"
        )


@dataclass
class ValueMoments:
    """Of the labels of one value task in the training split."""

    task: str
    whole: float = 0.0  # sum of weights
    above: float = 0.0  # of the labels above 0
    logs: float = 0.0  # weighted sum of their logs
    squares: float = 0.0
    largest: float = 0.0

    def add(self, labels: Tensor, weight: Tensor) -> None:
        """labels and weight (M,). Raises as require_values."""
        require_values(self.task, labels, "training")
        counts = (labels > 0) & (weight > 0)
        logs, weights = labels[counts].double().log(), weight[counts].double()
        self.whole += float(weight.double().sum())
        self.above += float(weights.sum())
        self.logs += float(weights @ logs)
        self.squares += float(weights @ logs**2)
        self.largest = max([self.largest, *labels[counts].tolist()])

    def start(self) -> tuple[float, float, float]:
        """(share of the labels above 0, mean and deviation of their logs). Raises DataError where none is above 0."""
        if not self.above > 0:
            raise DataError(
                f"the value task '{self.task}' has no label above 0 in the training split: leave it out of ranking.tasks, or give more data"
            )
        mean = self.logs / self.above
        share = min(self.above / self.whole, 1 - 0.5 / (self.whole + 1))  # where all are above 0, as if half an impression were not
        return share, mean, math.sqrt(max(self.squares / self.above - mean**2, 0.0))


@dataclass(frozen=True)
class ValueEvaluation:
    """Expected values of one task, on the validation split."""

    loss: float  # nats: weighted mean of the negative log likelihood
    expected: np.ndarray  # (M,) float64, before calibration
    labels: np.ndarray  # (M,) float64
    weights: np.ndarray  # (M,) float64

    @property
    def size(self) -> float:
        """Of the loss, nats, whatever the unit of the values: at least a nat per label above 0."""
        return max(abs(self.loss), float(np.average(self.labels > 0, weights=self.weights)))

    def factor(self) -> float:
        """With which the mean expected value is the mean label."""
        return value_metrics.fit_factor(self.labels, self.expected, self.weights)

    def deciles(self, factor: float) -> value_metrics.Deciles:
        """Of the expected values times the factor."""
        return value_metrics.deciles(self.labels, factor * self.expected, self.weights)

    def metrics(self, factor: float) -> dict[str, float | None]:
        """gini, calibration, decile_error and rmse of the expected values times the factor; None where all labels are equal."""
        asked = {
            "gini": value_metrics.normalized_gini,
            "calibration": value_metrics.expected_over_observed,
            "decile_error": value_metrics.decile_error,
            "rmse": value_metrics.rmse_over_mean,
        }
        counts = self.weights > 0
        if not np.ptp(self.labels[counts]) > 0:
            return dict.fromkeys(asked)
        return {name: metric(self.labels, factor * self.expected, self.weights) for name, metric in asked.items()}


def decile_lines(table: value_metrics.Deciles) -> Iterator[str]:
    """The table as text, a line per bin."""
    yield "decile  predicted  observed  rows"
    for place, (predicted, observed, rows) in enumerate(zip(*table, strict=True)):
        yield f"{place + 1:6d}  {predicted:9.4g}  {observed:8.4g}  {rows:,}"

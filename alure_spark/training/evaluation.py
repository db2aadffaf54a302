"""What logits of the validation split say of a model, whichever model it is: cross entropy, metrics and calibration of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .. import metrics
from ..config import ObjectiveConfig
from .values import ValueEvaluation


@dataclass(frozen=True)
class Evaluation:
    """A model on the validation split."""

    losses: dict[str, float]  # objective -> nats
    tasks: tuple[str, ...]  # what the columns below are of
    logits: np.ndarray  # (M, tasks) float64 uncalibrated
    labels: np.ndarray  # (M, tasks) float64
    weights: np.ndarray  # (M,) float64
    users: np.ndarray  # (M,) object
    segments: np.ndarray  # (M,) object: the user's when it was shown
    values: Mapping[str, ValueEvaluation] = field(default_factory=dict)  # tasks whose label is a number, which have no columns above

    def total(self, objectives: ObjectiveConfig) -> float:
        return sum(objectives.weight(name) * loss for name, loss in self.losses.items())

    def has_both(self, column: int) -> bool:
        """Whether the task of that column has labels of both classes among what is weighed."""
        return bool(0 < self.labels[:, column] @ self.weights < self.weights.sum())

    def cross_entropy(self, column: int) -> float:
        """Weighted mean of the task of that column, nats."""
        logits, labels = self.logits[:, column], self.labels[:, column]
        with np.errstate(invalid="ignore"):  # an infinite logit ends as NaN, which the loop names
            each = np.logaddexp(0, logits) - labels * logits
        return float(np.average(each, weights=self.weights))

    def calibrations(self) -> dict[int, tuple[float, float]]:
        """Column -> (scale, offset) with which the mean probability is the mean label; of tasks that have both classes."""
        return {
            column: metrics.fit_calibration(self.logits[:, column], self.labels[:, column], self.weights)
            for column in range(len(self.tasks))
            if self.has_both(column)
        }

    def metrics(self, predicted: np.ndarray) -> dict[str, float | None]:
        """<task>.ne, .auc, .gauc and .calibration of probabilities (M, tasks); None where a task has labels of one class only."""
        result: dict[str, float | None] = {}
        for column, task in enumerate(self.tasks):
            labels, weights, p = self.labels[:, column], self.weights, predicted[:, column]
            names = [f"{task}.{name}" for name in ("ne", "auc", "gauc", "calibration")]
            if not self.has_both(column):
                result |= dict.fromkeys(names)
                continue
            values = (
                metrics.normalized_entropy(labels, p, weights),
                metrics.auc(labels, p, weights),
                metrics.grouped_auc(labels, p, self.users, weights),
                metrics.calibration(labels, p, weights),
            )
            result |= dict(zip(names, values, strict=True))
        return result

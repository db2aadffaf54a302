"""What a person looks at after a ranking model was trained: curves, calibration, how its tables use their dimensions, lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .. import metrics
from ..plots import curves
from ..ranking.network import GRADIENT
from .ranking_exploration import FittedPosterior
from .ranking_model import TrainedRanking, probabilities
from .values import decile_lines


def figures(trained: TrainedRanking) -> dict[str, Figure]:
    """Loss per epoch and task; the gradient that negatives get; calibration where there are both labels, and of values by deciles."""
    names = sorted({key for row in trained.curves for key in row if "." in key and not key.endswith(".total")})
    losses, gradients = ([name for name in names if name.startswith(GRADIENT) == wanted] for wanted in (False, True))
    drawn = {"train_ranking/losses.png": curves(_lines(trained, losses), "epoch", "nats")}
    drawn["train_ranking/gradients.png"] = curves(_lines(trained, gradients), "epoch", "norm of the gradient on logits")
    evaluation, bins = trained.validation, {}
    predicted = probabilities(trained.network, evaluation)
    for column, task in enumerate(evaluation.tasks):
        if evaluation.has_both(column):
            curve = metrics.calibration_curve(evaluation.labels[:, column], predicted[:, column], weights=evaluation.weights)
            bins[task] = (curve.probability, curve.label)
    if bins:
        drawn["train_ranking/calibration.png"] = curves(bins, "predicted", "observed", diagonal=True)
    for task, its in evaluation.values.items():
        table = its.deciles(trained.factor(task))
        place = np.arange(1, len(table.rows) + 1)
        lines = {"predicted": (place, table.predicted), "observed": (place, table.observed)}
        drawn[f"train_ranking/deciles_{task}.png"] = curves(lines, "tenth of the impressions, by predicted value", f"mean {task}")
    return drawn


def _lines(trained: TrainedRanking, names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    epochs = np.arange(1, len(trained.curves) + 1)
    return {name: (epochs, np.array([row.get(name, np.nan) for row in trained.curves])) for name in names}


def metrics_and_text(
    trained: TrainedRanking, title: str, posteriors: Mapping[str, FittedPosterior] | None = None
) -> tuple[dict[str, float | None], str]:
    """(metrics, lines below the title)."""
    result = trained.metrics()
    for task, one in (posteriors or {}).items():
        result |= one.metrics(task)
    lines = [title, *(f"{key} {'-' if value is None else f'{value:.4f}'}" for key, value in sorted(result.items()))]
    for task, its in trained.validation.values.items():
        lines += [f"{task} by predicted value, validation split:", *decile_lines(its.deciles(trained.factor(task)))]
    counts = {f"parameters.{name}": float(count) for name, count in trained.network.parameter_counts().items()}
    result |= counts | {"best_epoch": float(trained.best_epoch + 1), "steps": float(trained.steps)}
    lines.append(", ".join(f"{name} {count:,.0f}" for name, count in counts.items()))
    return result, "\n".join(lines)

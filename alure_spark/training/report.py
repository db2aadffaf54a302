"""What a person looks at after a training: its curves, how calibrated it is, and its metrics as lines of text."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .. import metrics
from ..plots import curves
from . import user_evaluation, user_training
from .challenger import Challenger


def figures(trained: user_training.Trained) -> dict[str, Figure]:
    """Loss per epoch and objective; calibration of the tasks that have both labels among what is weighed."""
    epochs = np.arange(1, len(trained.curves) + 1)
    names = sorted({key for row in trained.curves for key in row if "." in key})
    lines = {name: (epochs, np.array([row.get(name, np.nan) for row in trained.curves])) for name in names}
    drawn = {"train_model/losses.png": curves(lines, "epoch", "nats")}
    found, bins = trained.validation, {}
    predicted = user_evaluation.probabilities(trained.model, found)
    for column, task in enumerate(found.tasks):
        if found.has_both(column):
            curve = metrics.calibration_curve(found.labels[:, column], predicted[:, column], weights=found.weights)
            bins[task] = (curve.probability, curve.label)
    return drawn | ({"train_model/calibration.png": curves(bins, "predicted", "observed", diagonal=True)} if bins else {})


def metrics_and_text(challenger: Challenger, validation: dict[str, float | None], title: str) -> tuple[dict[str, float | None], str]:
    """(metrics, lines below the title). validation: Challenger.validation_metrics."""
    result = validation | challenger.metrics
    lines = [
        title,
        *([f"trained anew: {challenger.obstacle}"] if challenger.obstacle else []),
        *(f"{key} {'-' if value is None else f'{value:.4f}'}" for key, value in sorted(result.items())),
    ]
    result |= {"best_epoch": challenger.trained.best_epoch + 1, "steps": challenger.trained.steps}
    result |= {"flops_per_user": challenger.flops_per_user, "parameters": sum(p.numel() for p in challenger.model.parameters())}
    return result | {"warm": float("continues" in challenger.facts)}, "\n".join(lines)

"""What a user model is worth on the validation split: losses, logits of its impressions, calibration, and metrics of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..batches.batch import JaggedBatch
from ..batches.epochs import Batches
from ..config import ObjectiveConfig
from ..errors import DataError
from ..model.user_model import Moments, UserModel
from .evaluation import Evaluation


@torch.no_grad()
def evaluate(model: UserModel, loader: Batches, moments: Moments, objectives: ObjectiveConfig) -> Evaluation:
    """Losses on the validation split, and the logits of its impressions. Raises DataError when there is nothing to evaluate by."""
    model.eval()
    tasks = model.spec.tasks
    contrastive, labelled = objectives.without(tasks), any(map(objectives.weight, tasks))
    sums: dict[str, list[float]] = {}
    parts: list[tuple[np.ndarray, ...]] = []
    for batch in loader.in_order():
        states = model.encoder.states(batch)
        for name, loss in model.losses(batch, moments, contrastive, states=states).items():
            mean = sums.setdefault(name, [0.0, 0.0])
            mean[0] += float(loss) * len(batch)
            mean[1] += len(batch)
        if labelled and batch.impressions is not None:
            parts.append(impression_logits(model, batch, states))
    losses = {name: value / count for name, (value, count) in sums.items()}
    joined = [np.concatenate(part) for part in zip(*parts, strict=True)] if parts else _no_impressions(len(tasks))
    logits, labels, weights, users, segments = joined
    found = Evaluation(losses, tasks, logits, labels, weights, users, segments)
    if weights.sum() > 0:
        losses |= {task: found.cross_entropy(column) for column, task in enumerate(tasks) if objectives.weight(task)}
    if not losses:
        raise DataError(
            "the validation split is empty: no impression and no later item in the last labels.validation_days before as_of; "
            "raise labels.validation_days"
        )
    return found


def calibrate(model: UserModel, found: Evaluation) -> None:
    """Fit scale and offset of each task on the validation split, so that the mean probability is the mean label."""
    for column, pair in found.calibrations().items():
        model.readout.calibration[column] = torch.tensor(pair)  # type: ignore[operator]


def probabilities(model: UserModel, found: Evaluation) -> np.ndarray:
    """(M, tasks) float64 calibrated probabilities of what was evaluated."""
    result: np.ndarray = model.readout.probabilities(torch.from_numpy(found.logits)).numpy()
    return result


def label_metrics(model: UserModel, found: Evaluation) -> dict[str, float | None]:
    """<task>.ne, .auc, .gauc and .calibration of the calibrated probabilities; None where a task has labels of one class only."""
    return found.metrics(probabilities(model, found))


def flops_per_user(model: UserModel, batch: JaggedBatch) -> float:
    """Floating point operations of the user sub-graph per user of the batch (multiplications and additions counted apart)."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.encoder.embed(batch)
    return counter.get_total_flops() / len(batch)


def impression_logits(model: UserModel, batch: JaggedBatch, states: Mapping[str, Tensor]) -> tuple[np.ndarray, ...]:
    """(logits, labels, weights, users, segments) of the batch's validation impressions."""
    assert batch.impressions is not None
    shown = batch.impressions.select(batch.impressions.validation)
    logits = model.readout(replace(batch, impressions=shown), states, model.encoder).double().numpy()
    labels = shown.labels_of(model.spec.tasks).double().numpy()
    users = np.array(batch.user_ids, object)[shown.users().numpy()]
    return logits, labels, shown.weight.double().numpy(), users, np.full(len(users), batch.segment, object)


def _no_impressions(tasks: int) -> list[np.ndarray]:
    return [np.zeros((0, tasks)), np.zeros((0, tasks)), np.zeros(0), np.zeros(0, object), np.zeros(0, object)]

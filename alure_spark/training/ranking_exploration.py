"""How unsure a trained ranking model is: the posterior of each task over what its tower's last layer reads (ranking/exploration.py).

Enters: the network after training, batches of users with their impressions. Leaves: task -> posterior, fitted on the training split; of
several length scales that with the least loss on the validation split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..batches.epochs import Batches
from ..config import ExplorationConfig
from ..errors import DataError
from ..ranking.exploration import Observed, Posterior, RandomFeatures, expected_logits, median_distance
from ..ranking.network import RankingNetwork
from .ranking_model import split_of

SAMPLE = 1000  # impressions between which distances are measured
ROWS = 4096  # of impressions whose features are held at once


@dataclass(frozen=True)
class FittedPosterior:
    """Of one task."""

    posterior: Posterior
    length_scale: float  # of the kernel, in the units of hidden vectors
    loss: float  # nats: mean cross entropy of the expected probability on the validation split
    deviation: float  # mean standard deviation of a logit there

    def metrics(self, task: str) -> dict[str, float | None]:
        values = {"length_scale": self.length_scale, "loss": self.loss, "deviation": self.deviation}
        return {f"exploration.{task}.{name}": value for name, value in values.items()}


def fitted_posteriors(network: RankingNetwork, loader: Batches, config: ExplorationConfig) -> dict[str, FittedPosterior]:
    """Task whose label is 0 or 1 -> its posterior; empty where ranking.exploration is off. A function of the arguments alone.

    Holds the hidden vectors of both splits, 4 bytes per number. Raises as Posterior.updated; DataError on a split without an impression.
    """
    if not config.on:
        return {}
    parts = [_observed(network, loader, validation) for validation in (False, True)]
    return {task: _fitted(parts[0][task], parts[1][task], config) for task in network.spec.binary}


def _fitted(training: Observed, validation: Observed, config: ExplorationConfig) -> FittedPosterior:
    rows = np.linspace(0, len(training.labels) - 1, min(SAMPLE, len(training.labels))).astype(np.int64)
    median = median_distance(training.hidden[rows])
    found = []
    for length in (share * median for share in config.length_scales):
        drawn = RandomFeatures.drawn(training.hidden.shape[1], config.features, length, config.prior_variance, config.seed)
        posterior = Posterior.before_data(drawn).updated(lambda: _parts(training))
        found.append(FittedPosterior(posterior, length, *_evaluated(posterior, validation)))
    return min(found, key=lambda one: one.loss)


def _evaluated(posterior: Posterior, observed: Observed) -> tuple[float, float]:
    """(mean cross entropy of the expected probability, nats; mean standard deviation of the logit), weighted."""
    loss, deviation, whole = 0.0, 0.0, float(observed.weights.sum())
    for part in _parts(observed):
        beliefs = posterior.at(part.hidden, part.logits)
        logits, weights = expected_logits(beliefs.mean, beliefs.variance), part.weights.double()
        loss += float(F.binary_cross_entropy_with_logits(logits, part.labels.double(), weights, reduction="sum"))
        deviation += float(weights @ beliefs.variance.sqrt())
    return loss / whole, deviation / whole


def _parts(observed: Observed) -> Iterator[Observed]:
    columns = (observed.hidden, observed.logits, observed.labels, observed.weights)
    return (Observed(*part) for part in zip(*(column.split(ROWS) for column in columns), strict=True))


@torch.no_grad()
def _observed(network: RankingNetwork, loader: Batches, validation: bool) -> dict[str, Observed]:
    """Task -> the impressions of one split, in the loader's order."""
    network.eval()
    found: dict[str, list[tuple[torch.Tensor, ...]]] = {task: [] for task in network.spec.binary}
    for whole in loader.in_order():
        batch = split_of(whole, validation)
        shown = batch.impressions
        if shown is None or not len(shown.time_ms):
            continue
        outputs, hidden = network.with_hidden(batch)
        logits = network.logits(outputs.double())[:, network.binary]
        calibrated, labels = network.calibrated(logits), shown.labels_of(network.spec.binary)
        for column, task in enumerate(network.spec.binary):
            found[task].append((hidden[task], calibrated[:, column], labels[:, column], shown.weight))
    if not all(found.values()):
        raise DataError(f"the {'validation' if validation else 'training'} split has no impression, which ranking.exploration is fitted on")
    return {task: Observed(*(torch.cat(column) for column in zip(*parts, strict=True))) for task, parts in found.items()}

"""How unsure the ranking model is of impressions, and what a draw says of them: the further columns of scores with ranking.exploration on.

Enters: logits and hidden vectors of impressions, the posteriors of the model, the request of each impression. Leaves: arrays per task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..ranking.exploration import Posterior

DECIMALS = 6  # of a probability, drawn or not, and of an expected value
LOGIT_DECIMALS = 4  # of a mean or variance: the noise of float32 lies below


@dataclass(frozen=True)
class Explored:
    """(M, tasks) float64 each, of the tasks whose label is 0 or 1."""

    mean: np.ndarray  # of the logit
    variance: np.ndarray  # of the logit
    drawn: np.ndarray  # probabilities of one draw per request: Thompson sampling (Pan et al., (5))


def explored(
    logits: Tensor, hidden: Mapping[str, Tensor], posteriors: Mapping[str, Posterior], requests: Sequence[str], seed: int
) -> Explored:
    """Of M impressions: logits (M, tasks) calibrated, task -> hidden (M, width), requests (M,) as `requests_of`.

    A draw is a function of request, task and seed: whatever the batch and its order, a request has the same one.
    """
    columns = []
    for column, (task, posterior) in enumerate(posteriors.items()):
        beliefs = posterior.at(hidden[task], logits[:, column])
        drawn = beliefs.drawn([f"{task}\n{request}" for request in requests], seed).sigmoid()
        columns.append(torch.stack([beliefs.mean, beliefs.variance, drawn]))
    mean, variance, drawn = torch.stack(columns, dim=2).numpy()
    return Explored(mean.round(LOGIT_DECIMALS), variance.round(LOGIT_DECIMALS), drawn.round(DECIMALS))


def requests_of(users: pa.Array, time_ms: np.ndarray) -> list[str]:
    """(M,) what names the request of each impression: its user and its moment. users (M,) strings, time_ms (M,) epoch milliseconds."""
    return [f"{user}\n{moment}" for user, moment in zip(users.to_pylist(), time_ms.tolist(), strict=True)]


def columns_of(tasks: Sequence[str], kind: str) -> dict[str, str]:
    """The further columns per task -> their type, which is the given one."""
    return {f"{what}_{task}": kind for task in tasks for what in ("logit_mean", "logit_variance", "explored")}


def values_of(found: Explored) -> list[np.ndarray]:
    """(M,) of each of `columns_of`."""
    return [values[:, column] for column in range(found.mean.shape[1]) for values in (found.mean, found.variance, found.drawn)]

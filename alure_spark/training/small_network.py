"""How the small network is fitted: some groups are held out, and their loss says when to stop.

Enters: features and labels of impressions, groups (users). Leaves: a `SmallNetwork`. It runs on the CPU: thousands of rows, tens of
columns, seconds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DataError
from ..model.small_network import SmallNetwork, feature_tensor
from .loop import fit
from .plan import Plan
from .tensor_batches import TensorBatches

HELD_OUT_SHARE = 0.2  # of the groups: their loss says when to stop
BATCH_ROWS = 256
INITIAL_DEVIATION = 0.1  # of the hidden weights
EPOCHS, PATIENCE = 100, 8  # at most; stop after so many epochs without a better held-out loss


def fit_small_network(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    seed: int,
    scale: np.ndarray | None = None,
    weight_decay: float = 0.01,
    learning_rate: float = 3e-3,
) -> SmallNetwork:
    """The network of the epoch with the least loss on a fifth of the groups, which it does not learn from.

    features (n, F); labels (n,) 0 or 1; groups (n,) e.g. users, so that stopping is decided on users that are new to the network.
    scale (F,) multiplies the centred columns; by default 1 / standard deviation, 0 for a constant column. A column with a smaller
    scale is dearer to use under weight decay. Equal for equal input and seed, whatever torch's global generator has done.
    Raises DataError on fewer than 2 groups, labels of one class in either part, or features that are not finite.
    """
    x, y = feature_tensor(features), torch.as_tensor(np.asarray(labels, np.float32))
    if not len(x) == len(y) == len(groups):
        raise DataError(f"{len(x):,} rows of features, {len(y):,} labels and {len(groups):,} groups: they must be of one length")
    random = np.random.default_rng(seed)
    held_out = _held_out(groups, random)
    rows, stop_rows = (torch.as_tensor(np.flatnonzero(mask)) for mask in (~held_out, held_out))
    for part, name in ((rows, "learned from"), (stop_rows, "held out")):
        if len(set(y[part].tolist())) < 2:
            raise DataError(f"the {len(part):,} rows {name} have one class of label: the network needs both; give more rows")
    if scale is None:
        deviation = np.asarray(features, np.float64).std(axis=0)
        scale = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)
    model = _start(x.mean(0), torch.as_tensor(np.asarray(scale, np.float32)), y[rows].mean(), seed)

    @torch.no_grad()
    def end_epoch() -> dict[str, float]:
        return {name: float(loss) for name, loss in model.losses(x[stop_rows], y[stop_rows]).items()}

    batches = TensorBatches((x[rows], y[rows]), BATCH_ROWS, lambda epoch: torch.as_tensor(random.permutation(len(rows))))
    fit(model, batches, Plan(EPOCHS, learning_rate, seed, weight_decay, patience=PATIENCE), end_epoch)
    return model.eval()


def _start(centre: Tensor, scale: Tensor, base_rate: Tensor, seed: int) -> SmallNetwork:
    """A network whose first prediction is the base rate; centre and scale (F,)."""
    with torch.random.fork_rng(devices=[]):  # the layers' own start is not used, and must not move torch's global generator
        model = SmallNetwork(centre, scale)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(model.linear.bias, float(torch.logit(base_rate)))
    # Drawn column by column: further columns leave the start of the first ones as it was, so that a gain is theirs.
    start = np.random.default_rng(seed).normal(0, INITIAL_DEVIATION, (len(centre), len(model.hidden.bias)))
    with torch.no_grad():
        model.hidden.weight.copy_(torch.as_tensor(start.T))
    return model


def _held_out(groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n,) bool: the rows of a random fifth of the groups, at least one."""
    distinct, group = np.unique(groups, return_inverse=True)
    if len(distinct) < 2:
        raise DataError(f"{len(distinct)} group: the network holds some groups out to know when to stop; give at least 2")
    chosen = random.permutation(len(distinct))[: max(1, round(HELD_OUT_SHARE * len(distinct)))]
    return np.isin(group, chosen)

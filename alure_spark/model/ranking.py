"""The ranking model: a small network that predicts a click or a conversion from features of the impression and the user.

Why here: ALURE's user embedding is worth what it adds to a ranking model (section 4), so there is one that takes it as further
columns. Enters: features (n, F) and labels of impressions. Leaves: `RankingModel`, whose `predict` gives probabilities.
It runs on the CPU: thousands of rows, tens of columns, seconds.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DataError

HELD_OUT_SHARE = 0.2  # of the groups: their loss says when to stop
BATCH_ROWS = 256
INITIAL_DEVIATION = 0.1  # of the hidden weights
EPOCHS, PATIENCE = 100, 8  # at most; stop after so many epochs without a better held-out loss


class RankingModel(nn.Module):
    """logit = linear(x) + output(relu(hidden(x))), x = (features - centre) * scale.

    The linear road is there because with few rows most of what can be learned is linear. centre and scale (F,) are buffers: they
    travel with the weights.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, centre: Tensor, scale: Tensor, hidden: int = 32) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)
        self.linear = nn.Linear(len(centre), 1)
        self.hidden = nn.Linear(len(centre), hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(n,) float32 logits of features (n, F) float32."""
        x = (features - self.centre) * self.scale
        return (self.linear(x) + self.output(torch.relu(self.hidden(x)))).squeeze(1)

    @torch.no_grad()
    def predict(self, features: np.ndarray) -> np.ndarray:
        """(n,) float64 probabilities of features (n, F). Raises DataError when a feature is not finite or F is another."""
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise DataError(f"features are {features.shape}; this model was fitted on (n, {len(self.centre)})")
        return torch.sigmoid(self(_tensor(features)).double()).numpy()


def fit_ranking(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    seed: int,
    scale: np.ndarray | None = None,
    weight_decay: float = 0.01,
    learning_rate: float = 3e-3,
) -> RankingModel:
    """The network of the epoch with the least loss on a fifth of the groups, which it does not learn from.

    features (n, F); labels (n,) 0 or 1; groups (n,) e.g. users, so that stopping is decided on users that are new to the network.
    scale (F,) multiplies the centred columns; by default 1 / standard deviation, 0 for a constant column. A column with a smaller
    scale is dearer to use under weight decay. Equal for equal input and seed, whatever torch's global generator has done.
    Raises DataError on fewer than 2 groups, labels of one class in either part, or features that are not finite.
    """
    x, y = _tensor(features), torch.as_tensor(np.asarray(labels, np.float32))
    if not len(x) == len(y) == len(groups):
        raise DataError(f"{len(x):,} rows of features, {len(y):,} labels and {len(groups):,} groups: they must be of one length")
    random = np.random.default_rng(seed)
    held_out = _held_out(groups, random)
    rows, stop_rows = (torch.as_tensor(np.flatnonzero(mask)) for mask in (~held_out, held_out))
    for part, name in ((rows, "learned from"), (stop_rows, "held out")):
        if len(set(y[part].tolist())) < 2:
            raise DataError(f"the {len(part):,} rows {name} have one class of label: the ranking model needs both; give more rows")
    if scale is None:
        deviation = np.asarray(features, np.float64).std(axis=0)
        scale = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)

    with torch.random.fork_rng(devices=[]):  # the layers' own start is not used, and must not move torch's global generator
        model = RankingModel(x.mean(0), torch.as_tensor(np.asarray(scale, np.float32)))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)  # but for what follows: the first prediction is the base rate
    nn.init.constant_(model.linear.bias, float(torch.logit(y[rows].mean())))
    # Drawn column by column: further columns leave the start of the first ones as it was, so that a gain is theirs.
    start = np.random.default_rng(seed).normal(0, INITIAL_DEVIATION, (x.shape[1], len(model.hidden.bias)))
    with torch.no_grad():
        model.hidden.weight.copy_(torch.as_tensor(start.T))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    loss_of = nn.BCEWithLogitsLoss()
    best, best_loss, since = copy.deepcopy(model.state_dict()), float("inf"), 0
    for _ in range(EPOCHS):
        for batch in torch.as_tensor(random.permutation(len(rows))).split(BATCH_ROWS):
            optimizer.zero_grad()
            loss_of(model(x[rows[batch]]), y[rows[batch]]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(loss_of(model(x[stop_rows]), y[stop_rows]))
        since += 1
        if loss < best_loss:
            best, best_loss, since = copy.deepcopy(model.state_dict()), loss, 0
        if since >= PATIENCE:
            break
    model.load_state_dict(best)
    return model.eval()


def _held_out(groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n,) bool: the rows of a random fifth of the groups, at least one."""
    distinct, group = np.unique(groups, return_inverse=True)
    if len(distinct) < 2:
        raise DataError(f"{len(distinct)} group: the ranking model holds some groups out to know when to stop; give at least 2")
    chosen = random.permutation(len(distinct))[: max(1, round(HELD_OUT_SHARE * len(distinct)))]
    return np.isin(group, chosen)


def _tensor(features: np.ndarray) -> Tensor:
    tensor = torch.as_tensor(np.asarray(features, np.float32))
    if not torch.isfinite(tensor).all():
        raise DataError("a feature is NaN or infinite: fill it before ranking")
    return tensor

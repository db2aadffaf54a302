"""Pairs of a positive and a negative of the batch: the ranking loss of Pan et al., section 6.1.

The gradient of the cross entropy on a negative is sigmoid(z_j) / N, which dies with the base rate. That of the mean over the pairs is
1 / (|P| |N|) times the sum over the positives i of sigmoid(z_j - z_i), which does not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .loss import Mixed


class Pairwise(Mixed):
    """Weighted mean of -log sigmoid(z_i - z_j); the weight of a pair is the product of its two weights.

    Where a batch has more than `pairs` of them, so many are drawn by their weights, with replacement: memory stays flat, and the mean is
    right on average.
    """

    def __init__(self, alpha: float, pairs: int) -> None:
        super().__init__(alpha)
        self.pairs = pairs

    def compared(self, logits: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
        above, below = logits[positive], logits[~positive]
        of_above, of_below = weight[positive], weight[~positive]
        if len(above) * len(below) > self.pairs:
            return F.softplus(below[drawn_places(of_below, self.pairs)] - above[drawn_places(of_above, self.pairs)]).mean()
        each = F.softplus(below[None, :] - above[:, None])  # (positives, negatives)
        return (of_above / of_above.sum()) @ each @ (of_below / of_below.sum())


def drawn_places(weight: Tensor, count: int) -> Tensor:
    """(count,) int64 places, each as likely as its weight (n,) says."""
    ends = weight.double().cumsum(0)  # torch.multinomial takes at most 2^24 categories
    share = torch.empty(count, dtype=torch.float64).uniform_()
    return torch.searchsorted(ends, share * ends[-1], right=True).clamp(max=len(weight) - 1)

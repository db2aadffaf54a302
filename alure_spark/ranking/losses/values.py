"""What tasks whose label is a number minimize: the likelihood of a zero-inflated lognormal, and pairs of which one is worth more.

Pan et al., section 6.1, deploy the ranking loss in all models of long-time value: a x likelihood + (1 - a) x pairs, as for clicks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..values import log_expected, negative_log_likelihood
from .pairwise import drawn_places


class ZeroInflatedLognormal:
    """The likelihood alone. By it value tasks are validated, whatever they are trained by."""

    def __call__(self, outputs: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """() weighted mean over the impressions, nats: outputs (M, 3), labels (M,) of at least 0, weight (M,) not all 0."""
        return (negative_log_likelihood(outputs, labels) * weight).sum() / weight.sum()


class OrderedValues(ZeroInflatedLognormal):
    """alpha times the likelihood and (1 - alpha) times the weighted mean of -log sigmoid(s_i - s_j) over pairs with label i above label j.

    s is the log of the expected value, so that the unit of values does not matter. The weight of a pair is the product of its two
    weights. Where a batch has more than `pairs` of them, so many are drawn by their weights, with replacement.
    """

    def __init__(self, alpha: float, pairs: int) -> None:
        self.alpha, self.pairs = alpha, pairs

    def __call__(self, outputs: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        whole = self.alpha * super().__call__(outputs, labels, weight)
        counts = weight > 0
        if not bool(counts.any()) or bool((labels[counts] == labels[counts][0]).all()):
            return whole  # no pair
        compared = self.compared(log_expected(outputs[counts]), labels[counts], weight[counts])
        return whole + (1 - self.alpha) * compared

    def compared(self, scores: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """() of impressions whose labels (n,) are not all the same: scores (n,), weight (n,) above 0."""
        above, below = labels > labels.min(), labels < labels.max()  # may be the larger, and the smaller, of a pair
        if int(above.sum()) * int(below.sum()) > self.pairs:
            return self._of_drawn(scores, labels, weight)
        of_pairs = torch.where(labels[above, None] > labels[None, below], weight[above, None] * weight[None, below], 0)
        return (F.softplus(scores[None, below] - scores[above, None]) * of_pairs).sum() / of_pairs.sum()

    def _of_drawn(self, scores: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Of `pairs` pairs: the larger one is as likely as its weight times that of all below it, the smaller one as its weight."""
        order = labels.argsort(stable=True)
        scores, labels, weight = scores[order], labels[order].contiguous(), weight[order].double()
        smaller = torch.searchsorted(labels, labels)  # (n,) how many are below each
        ends = torch.cat([weight.new_zeros(1), weight.cumsum(0)])
        above = drawn_places(weight * ends[smaller], self.pairs)
        share = torch.empty(self.pairs, dtype=torch.float64).uniform_()
        below = torch.searchsorted(ends[1:], share * ends[smaller[above]], right=True)
        return F.softplus(scores[torch.minimum(below, smaller[above] - 1)] - scores[above]).mean()

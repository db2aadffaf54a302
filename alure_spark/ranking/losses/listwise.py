"""The batch as one list: softmax cross entropy (ListNet, Cao et al. 2007), with the positives as the target."""

from __future__ import annotations

import torch
from torch import Tensor

from .loss import Mixed


class Listwise(Mixed):
    """Weighted mean over the positives of -log softmax(z) over all impressions of the batch."""

    def compared(self, logits: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
        everybody = torch.logsumexp(logits + weight.log(), dim=0)
        of_positive = weight[positive]
        return everybody - (of_positive @ logits[positive]) / of_positive.sum()

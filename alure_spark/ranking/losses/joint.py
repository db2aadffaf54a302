"""Joint optimization of ranking and calibration (JRC; Sheng et al. 2022, arXiv 2208.06164), with the batch as the context.

There a model has two logits per task, f_0 and f_1, whose difference is the logit of the probability; an impression with the label y is to
have the largest f_y of all. Here a tower has one logit z, and f_1 = z / 2 = -f_0. (0, z) would have the same probability, but then
f_0 is equal for all, and no negative is compared with anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .loss import Mixed


class Joint(Mixed):
    """Weighted mean over all impressions of -log softmax(f_y) over the batch, y being the label of the impression."""

    def compared(self, logits: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
        own = torch.where(positive, logits, -logits) / 2  # (n,) f_y
        logs = weight.log()
        with_, without = torch.logsumexp(logits / 2 + logs, dim=0), torch.logsumexp(logs - logits / 2, dim=0)
        each = torch.where(positive, with_, without) - own
        return (weight @ each) / weight.sum()

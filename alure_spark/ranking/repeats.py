"""What an impression weighs that repeats an earlier one (REW; Pan et al., section 6.2): more, if there was no response.

Enters: how often and how many days ago the user was shown the same before. Leaves: weights of at least 1. The paper mixes the number of
exposures with the days since the last one. The latter grow with the gap, although it is the recent repeat that should weigh more: so the
second part is by default how recent the last one is, from 1 down to 0; `literal` takes the days.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import RepeatConfig


def repeat_weight(count: Tensor, days_since: Tensor, config: RepeatConfig) -> Tensor:
    """(M,) float64, at least 1, and exactly 1 of first exposures.

    count (M,): earlier exposures, decayed or not, missing ones as 0; the impression itself is one more. days_since (M,): the last of them.
    """
    earlier, gap = count.double().nan_to_num(), days_since.double()
    second = gap if config.literal else torch.exp2(-gap / config.half_life_days)
    mixed = config.alpha * (earlier + 1) + (1 - config.alpha) * second.nan_to_num()
    return torch.where(earlier > 0, mixed.clamp(min=1), 1.0)


def factors(labels: Tensor, weight: Tensor, positive: float) -> Tensor:
    """(M,) float64: the weight (M,) of impressions without a response, and the same number of those with one; labels (M,)."""
    return torch.where(labels > 0, positive, weight.double())


def mean_of_negatives(labels: Tensor, weight: Tensor, sample: Tensor) -> tuple[float, float]:
    """(sum of sample x weight, sum of sample) over the impressions without a response, (M,) each; sample: the weight of an impression.

    Positives that weigh the ratio of the two keep the weighted base rate: both classes then weigh the same multiple of what they did.
    """
    negative = (labels <= 0).double() * sample.double()
    return float(negative @ weight.double()), float(negative.sum())

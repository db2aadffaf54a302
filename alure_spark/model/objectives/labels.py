"""The labels of tasks: weighted cross entropy at the impressions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..parallel import ALONE, Alone


def label_loss(logits: Tensor, labels: Tensor, weight: Tensor, processes: Alone = ALONE) -> Tensor:
    """Weighted mean cross entropy, in nats: logits, labels, weight (M,), some of which is above 0."""
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return (losses * weight).sum() / processes.total(weight.sum())

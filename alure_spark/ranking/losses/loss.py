"""What all losses of the ranking model have in common: the contract, and the mix of cross entropy and a comparison of impressions.

A comparison exists between the positives and the negatives of a batch and a task. Where one of the two is missing it adds exactly 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Loss(Protocol):
    """A function of M impressions and T tasks."""

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """(T,) mean losses, nats.

        logits (M, T); labels (M, T), 0 or 1; weight (M, T), or (M, 1) where all tasks weigh alike, not negative and not all 0. An
        impression of weight 2 counts as two impressions of weight 1. What is drawn comes from torch's own generator of the CPU.
        """


class ValueLoss(Protocol):
    """A function of M impressions and one task whose label is a number."""

    def __call__(self, outputs: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """() mean loss, nats: outputs (M, 3) as of ranking/values.py, labels (M,) of at least 0, weight (M,) not negative, not all 0."""


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """(T,) weighted means."""
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (each * weight).sum(dim=0) / weight.sum(dim=0)


class Mixed(ABC):
    """alpha times the cross entropy and (1 - alpha) times a comparison, task by task."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        of_tasks = zip(logits.unbind(1), labels.unbind(1), weight.expand_as(logits).unbind(1), strict=True)
        compared = torch.stack([self._if_both(*its) for its in of_tasks])
        return self.alpha * cross_entropy(logits, labels, weight) + (1 - self.alpha) * compared

    def _if_both(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        counts, positive = weight > 0, labels > 0
        if not (bool((counts & positive).any()) and bool((counts & ~positive).any())):
            return logits.new_zeros(())
        return self.compared(logits[counts], positive[counts], weight[counts])

    @abstractmethod
    def compared(self, logits: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
        """() of impressions of one task, some of them positive, some not: logits (n,), positive (n,) bool, weight (n,) above 0."""

"""Cross entropy alone: every impression is compared with its label."""

from __future__ import annotations

from torch import Tensor

from .loss import cross_entropy


class CrossEntropy:
    """The loss by which the ranking model is also validated, whatever it is trained by."""

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        return cross_entropy(logits, labels, weight)

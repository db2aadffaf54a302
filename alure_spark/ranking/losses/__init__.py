"""What a ranking model minimizes. A new loss is a file here and a line in LOSSES."""

from __future__ import annotations

from collections.abc import Callable

from .cross_entropy import CrossEntropy
from .joint import Joint
from .listwise import Listwise
from .loss import Loss
from .pairwise import Pairwise

# Name -> the loss with so much of the cross entropy (alpha), which compares at most so many pairs of a batch.
LOSSES: dict[str, Callable[[float, int], Loss]] = {
    "bce": lambda alpha, pairs: CrossEntropy(),
    "pairwise": Pairwise,
    "listwise": lambda alpha, pairs: Listwise(alpha),
    "jrc": lambda alpha, pairs: Joint(alpha),
}

__all__ = ["LOSSES", "CrossEntropy", "Joint", "Listwise", "Loss", "Pairwise"]

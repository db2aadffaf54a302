"""What a ranking model minimizes. A new loss is a file here and a line in LOSSES."""

from __future__ import annotations

from collections.abc import Callable

from .cross_entropy import CrossEntropy
from .joint import Joint
from .listwise import Listwise
from .loss import Loss, ValueLoss
from .pairwise import Pairwise
from .values import OrderedValues, ZeroInflatedLognormal

# Name -> the loss with so much of the cross entropy (alpha), which compares at most so many pairs of a batch.
LOSSES: dict[str, Callable[[float, int], Loss]] = {
    "bce": lambda alpha, pairs: CrossEntropy(),
    "pairwise": Pairwise,
    "listwise": lambda alpha, pairs: Listwise(alpha),
    "jrc": lambda alpha, pairs: Joint(alpha),
}


def value_loss(kind: str, alpha: float, pairs: int) -> ValueLoss:
    """What tasks whose label is a number minimize: with every kind but bce pairs are compared, as no other comparison has numbers."""
    return ZeroInflatedLognormal() if kind == "bce" else OrderedValues(alpha, pairs)


__all__ = [
    "LOSSES",
    "CrossEntropy",
    "Joint",
    "Listwise",
    "Loss",
    "OrderedValues",
    "Pairwise",
    "ValueLoss",
    "ZeroInflatedLognormal",
    "value_loss",
]

"""How the vectors of one table meet. A new expert is a file here and a line in EXPERTS."""

from __future__ import annotations

from collections.abc import Callable

from .expert import Expert, Fields
from .layers import CrossNetwork, FlatNetwork
from .parts import GroupWeightedParts
from .products import Factorization, InnerProducts, WeightedFactorization

EXPERTS: dict[str, Callable[..., Expert]] = {
    "gwpfm": GroupWeightedParts,
    "ipnn": InnerProducts,
    "dcn_v2": CrossNetwork,
    "flat_dnn": FlatNetwork,
    "fm": Factorization,
    "fwfm": WeightedFactorization,
}

__all__ = ["EXPERTS", "Expert", "Fields"]

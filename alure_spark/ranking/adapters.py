"""How a given embedding, or a representation of another model, becomes vectors of this one (LFM4Ads, feature level).

linear     a matrix per table;
nonlinear  a matrix, and beside it two layers with a ReLU between them, which add next to nothing at the start;
gate       as linear, and it also says by how much each number of all other fields' vectors counts, from 1 at the start;
raw        as it is, beside what the experts make of the other fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..model.linear import Linear
from ..model.named import Modules
from .spec import RankingSpec

START = 0.01  # of the usual weights: what the layer that is not linear adds before training


class Nonlinear(nn.Module):
    """A matrix plus two layers; between these as many numbers as the wider side has, at most 64.

    Two layers alone learn worse than a matrix where examples are few (benchmarks/transfer.py): so they begin as what a matrix leaves over.
    """

    def __init__(self, numbers: int, dimension: int) -> None:
        super().__init__()
        between = min(64, max(numbers, dimension))
        self.matrix = Linear(numbers, dimension)
        self.rest = nn.Sequential(Linear(numbers, between), nn.ReLU(), Linear(between, dimension))
        with torch.no_grad():
            for parameter in self.rest[-1].parameters():
                parameter.mul_(START)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *more: Any) -> None:
        """Models of 2026-11-30 and before have the two layers alone: there the matrix is 0."""
        if f"{prefix}0.weight" in state:
            for layer in (0, 2):
                for part in ("weight", "bias"):
                    state[f"{prefix}rest.{layer}.{part}"] = state.pop(f"{prefix}{layer}.{part}")
            state |= {f"{prefix}matrix.{name}": torch.zeros_like(its) for name, its in self.matrix.named_parameters()}
        super()._load_from_state_dict(state, prefix, *more)

    def forward(self, numbers: Tensor) -> Tensor:
        """(M, dimension) of (M, numbers)."""
        return cast(Tensor, self.matrix(numbers) + self.rest(numbers))


PROJECTIONS: Mapping[str, Callable[[int, int], nn.Module]] = {"linear": Linear, "nonlinear": Nonlinear, "gate": Linear}


class Projections(nn.Module):
    """Given embeddings as vectors of a table; one that is missing has a vector of its own."""

    def __init__(self, spec: RankingSpec, dimension: int, plain: bool = False) -> None:
        """plain: all by a matrix, whatever their adapter."""
        super().__init__()
        self.names = spec.projected
        kinds = {name: "linear" if plain else spec.fields[name].adapter for name in self.names}
        self.of = Modules({name: PROJECTIONS[kind](spec.fields[name].width + 1, dimension) for name, kind in kinds.items()})

    def forward(self, numbers: Mapping[str, Tensor]) -> Tensor:
        """(M, projected fields, dimension)."""
        return torch.stack([self.of[name](numbers[name]) for name in self.names], dim=1)


class FieldGates(nn.Module):
    """By how much the numbers of the vectors of a table count, as the fields with the adapter `gate` say."""

    def __init__(self, spec: RankingSpec, dimension: int) -> None:
        super().__init__()
        self.of = Modules({name: Linear(spec.fields[name].width + 1, dimension) for name in spec.gating})
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, numbers: Mapping[str, Tensor]) -> Tensor:
        """(M, 1, dimension), between 0 and 2."""
        total = sum((layer(numbers[name]) for name, layer in self.of.items()), torch.zeros(()))
        return cast(Tensor, 2 * torch.sigmoid(total))[:, None]


def with_flag(values: Tensor, width: int, name: str) -> Tensor:
    """(M, width + 1): values (M, width) float32 with 0 where a row is missing, and whether it is. Raises DataError on another width."""
    if values.shape[1] != width:
        raise DataError(f"the field '{name}' has {values.shape[1]} numbers, but the model was trained on {width}")
    missing = values.isnan().any(dim=1, keepdim=True)
    return torch.cat([torch.where(missing, 0, values), missing], dim=1)

"""Numbers as they are: as vectors of a table, and as what each row and each number adds to the outputs by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..model.named import Modules
from .spec import RankingSpec
from .tables import Codes, EmbeddingTable


class Projections(nn.Module):
    """Given embeddings as vectors of a table; one that is missing has a vector of its own."""

    def __init__(self, spec: RankingSpec, dimension: int) -> None:
        super().__init__()
        self.names = spec.dense
        self.of = Modules({name: nn.Linear(spec.fields[name].width + 1, dimension) for name in spec.dense})

    def forward(self, numbers: Mapping[str, Tensor]) -> Tensor:
        """(M, dense fields, dimension)."""
        found = []
        for name in self.names:
            values, layer = numbers[name], cast(nn.Linear, self.of[name])
            if values.shape[1] + 1 != layer.in_features:
                raise DataError(f"the field '{name}' has {values.shape[1]} numbers, but the model was trained on {layer.in_features - 1}")
            missing = values.isnan().any(dim=1, keepdim=True)
            found.append(layer(torch.cat([torch.where(missing, 0, values), missing], dim=1).to(layer.weight.dtype)))
        return torch.stack(found, dim=1)


class Linear(nn.Module):
    """What each row and each number adds to the outputs by itself, nothing before training: what few examples teach first."""

    def __init__(self, spec: RankingSpec, rows: int, outputs: int) -> None:
        super().__init__()
        self.rows = EmbeddingTable(rows, outputs, 0.0)
        self.given = Projections(spec, outputs)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, codes: Codes, numbers: Mapping[str, Tensor]) -> Tensor:
        """(M, outputs)."""
        by_row = self.rows(codes).sum(dim=1)
        return by_row + self.given(numbers).sum(dim=1) if numbers else by_row

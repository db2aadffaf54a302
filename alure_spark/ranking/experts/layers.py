"""Experts of whole rows: FlatDNN and DCN V2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ...model.linear import Linear
from .expert import Fields


class FlatNetwork(nn.Module):
    """FlatDNN: layers with ReLU on all vectors side by side; without hidden ones the vectors as they are."""

    def __init__(self, fields: Fields, dimension: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        sizes = [len(fields) * dimension, *hidden]
        self.layers = nn.ModuleList(Linear(before, after) for before, after in pairwise(sizes))
        self.width = sizes[-1]

    def forward(self, vectors: Tensor) -> Tensor:
        x = vectors.flatten(1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class CrossNetwork(nn.Module):
    """DCN V2 (Wang et al. 2021): x' = x0 * (W x + b) + x. W projects each field for each other one, against collapse (section 4.4)."""

    def __init__(self, fields: Fields, dimension: int, depth: int = 2) -> None:
        super().__init__()
        self.width = len(fields) * dimension
        self.crosses = nn.ModuleList(Linear(self.width, self.width) for _ in range(depth))

    def forward(self, vectors: Tensor) -> Tensor:
        first = x = vectors.flatten(1)
        for cross in self.crosses:
            x = torch.addcmul(x, first, cross(x))
        return x

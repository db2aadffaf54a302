"""Experts of inner products: IPNN, FM and FwFM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .expert import Fields, pairs


class InnerProducts(nn.Module):
    """IPNN (Qu et al. 2016): the inner products of all pairs of fields; with_vectors: and the vectors themselves, as its paper has it."""

    def __init__(self, fields: Fields, dimension: int, with_vectors: bool = True) -> None:
        super().__init__()
        self.left, self.right = pairs(len(fields))
        self.with_vectors = with_vectors
        self.width = len(self.left) + (len(fields) * dimension if with_vectors else 0)

    def forward(self, vectors: Tensor) -> Tensor:
        found = (vectors @ vectors.transpose(1, 2))[:, self.left, self.right]
        return torch.cat([found, vectors.flatten(1)], dim=1) if self.with_vectors else found


class Factorization(nn.Module):
    """FM (Rendle 2010): the element-wise products of all pairs of fields, summed: (square of the sum - sum of the squares) / 2."""

    def __init__(self, fields: Fields, dimension: int) -> None:
        super().__init__()
        self.width = dimension

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors.sum(dim=1) ** 2 - (vectors**2).sum(dim=1)) / 2


class WeightedFactorization(nn.Module):
    """FwFM (Pan et al. 2018): the same with a learnt weight of each pair of fields."""

    def __init__(self, fields: Fields, dimension: int) -> None:
        super().__init__()
        self.width = dimension
        self.strengths = nn.Parameter(torch.ones(len(fields), len(fields)))

    def forward(self, vectors: Tensor) -> Tensor:
        of_pair = self.strengths.triu(1)
        return (torch.einsum("ij,njk->nik", of_pair, vectors) * vectors).sum(dim=1)

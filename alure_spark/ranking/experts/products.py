"""Experts of inner products: IPNN, FM and FwFM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .expert import Fields, pairs


class InnerProducts(nn.Module):
    """IPNN (Qu et al. 2016): the inner products of all pairs of fields; with_vectors: and the vectors themselves, as its paper has it."""

    above_diagonal: Tensor  # (pairs,) int64: where i < j lie in a flat (fields, fields) matrix

    def __init__(self, fields: Fields, dimension: int, with_vectors: bool = True) -> None:
        super().__init__()
        above = [left * len(fields) + right for left, right in zip(*pairs(len(fields)), strict=True)]
        self.register_buffer("above_diagonal", torch.tensor(above, dtype=torch.int64), persistent=False)
        self.with_vectors = with_vectors
        self.width = len(above) + (len(fields) * dimension if with_vectors else 0)

    def forward(self, vectors: Tensor) -> Tensor:
        products = (vectors @ vectors.transpose(1, 2)).flatten(1)  # (n, fields * fields)
        # Not products[:, above]: its gradient is put back number by number and takes twice the time.
        inner = products.index_select(1, self.above_diagonal)
        return torch.cat([inner, vectors.flatten(1)], dim=1) if self.with_vectors else inner


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

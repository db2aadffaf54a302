"""Embedding tables: the rows of all fields in one matrix, so that a lookup is one call and its gradient one sparse tensor.

Several tables with interactions of their own keep dimensions from collapsing (multi-embedding; Pan et al., section 4.2). A field's codes
are the same for every table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Codes:
    """The codes of n rows of all fields, as an embedding bag reads them: bag row * fields + field."""

    rows: Tensor  # (m,) int64 rows of a table
    begins: Tensor  # (n * fields,) int64: where a bag begins among them
    fields: int

    def __len__(self) -> int:
        return len(self.begins) // self.fields if self.fields else 0


class Lookup:
    """Where each field's rows begin in a table. A field is called by its place."""

    def __init__(self, rows: Sequence[int]) -> None:
        """rows: of each field."""
        self.rows = tuple(rows)
        self.begins = [sum(rows[:place]) for place in range(len(rows))]

    @property
    def total(self) -> int:
        return sum(self.rows)

    def codes(self, given: Sequence[Tensor]) -> Codes:
        """given: of each field (n, width) int64 rows of its own, -1 for none."""
        widths = torch.tensor([one.shape[1] for one in given])
        own = torch.cat(list(given), dim=1)
        kept = own >= 0
        moved = own + torch.tensor(self.begins).repeat_interleave(widths)
        place = torch.arange(len(own))[:, None] * own.shape[1] + (widths.cumsum(0) - widths)
        if bool(kept.all()):  # as ids are: nothing is left out, so a bag begins where its field does
            return Codes(moved.flatten(), place.flatten(), len(given))
        ends = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.flatten().cumsum(0)])
        return Codes(moved[kept], ends[place.flatten()], len(given))


class EmbeddingTable(nn.Module):
    """(rows, dimension), normal rows of the deviation; its gradient is sparse, so that a step costs what it touches."""

    def __init__(self, rows: int, dimension: int, deviation: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(rows, dimension), std=deviation))

    @property
    def dimension(self) -> int:
        return self.weight.shape[1]

    def forward(self, codes: Codes) -> Tensor:
        """(n, fields, dimension): the sum of the rows of each field."""
        found = nn.functional.embedding_bag(codes.rows, self.weight, codes.begins, mode="sum", sparse=True)
        return found.view(-1, codes.fields, self.dimension)

    def of(self, rows: Tensor) -> Tensor:
        """(..., dimension): the rows (...) int64."""
        return nn.functional.embedding(rows, self.weight, sparse=True)


def grown(learnt: Tensor, before: Lookup, fresh: Tensor, after: Lookup) -> Tensor:
    """A table of the fields' rows of today, in which each row that was there is as it was learnt; new rows are those of `fresh`.

    learnt (before.total, numbers), fresh (after.total, numbers). A field may have more rows than before and never fewer. Raises
    ValueError where one has.
    """
    if len(before.rows) != len(after.rows) or any(now < then for then, now in zip(before.rows, after.rows, strict=True)):
        raise ValueError(f"rows of fields were {before.rows} and are {after.rows}: a field's rows only grow")
    found = fresh.clone()
    for then, now, count in zip(before.begins, after.begins, before.rows, strict=True):
        found[now : now + count] = learnt[then : then + count]
    return found

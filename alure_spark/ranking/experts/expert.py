"""What an expert is: how the vectors of one table meet (Pan et al., section 4.2). The layer that follows is not linear (network.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Fields:
    """The fields whose vectors meet, in their order: parts and groups are those of GwPFM (section 4.3)."""

    names: tuple[str, ...]
    groups: tuple[str, ...]  # of each field
    parts: tuple[str, ...]  # of each field; all fields of a group are in one part

    def __len__(self) -> int:
        return len(self.names)

    @property
    def group_names(self) -> list[str]:
        return list(dict.fromkeys(self.groups))

    @property
    def part_names(self) -> list[str]:
        return list(dict.fromkeys(self.parts))

    def part_of(self, group: str) -> str:
        return self.parts[self.groups.index(group)]


class Expert(Protocol):
    """A module of (fields, dimension) that says how many numbers it makes of a row."""

    width: int

    def __call__(self, vectors: Tensor) -> Tensor:
        """(n, width) of vectors (n, fields, dimension)."""


def pairs(count: int) -> tuple[Sequence[int], Sequence[int]]:
    """All i < j below count, as two lists."""
    both = [(i, j) for i in range(count) for j in range(i + 1, count)]
    return [i for i, _ in both], [j for _, j in both]

"""Texts as bags of hashed words (batches/texts_and_vectors.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Words:
    """Words are spread over rows by their hashes: `buckets` of them, and row 0 for a text without words."""

    words: int  # of a text that are read
    buckets: int = 4096

    @property
    def rows(self) -> int:
        return 1 + self.buckets

    @property
    def width(self) -> int:
        return self.words

    def codes(self, values: Tensor) -> Tensor:
        """values: (n, words) int64 hashes above 0, 0 after the last word."""
        rows = torch.where(values > 0, values % self.buckets + 1, -1)
        rows[:, 0] = torch.where(values[:, 0] > 0, rows[:, 0], 0)
        return rows

"""Ids: one row each, as a vocabulary gave it (batches/vocabulary.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import DataError


@dataclass(frozen=True)
class Ids:
    """Rows of a vocabulary; row 0, of missing and unknown ids, is learnt like any other."""

    size: int  # rows of the vocabulary, row 0 among them

    @property
    def rows(self) -> int:
        return self.size

    @property
    def width(self) -> int:
        return 1

    def codes(self, values: Tensor) -> Tensor:
        """values: (n,) int64 rows. Raises DataError on a row that the vocabulary does not have."""
        outside = (values < 0) | (values >= self.size)
        if bool(outside.any()):
            row = int(values[outside][0])
            raise DataError(f"a row is {row}, but the model has the rows 0 to {self.size - 1}: use the vocabulary that was saved with it")
        return values[:, None].to(torch.int64)

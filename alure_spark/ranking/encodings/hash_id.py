"""HashID (Pan et al., section 3.2): the embedding of a creative as bits of locality-sensitive hashing, and these as numerals.

So an ad that nobody has seen is read by what it looks like. The bits are signs of seeded random projections (Charikar 2002): two vectors at
the angle a differ in the share a / pi of them. Only bases that are powers of 2 keep that: one bit changes one digit. In others it
changes many, which docs/decisions.md measures.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, DataError
from .numeral_systems import Numerals

MISSING, FIRST = 0, 1
MOST_BITS = 62  # of a whole number with a sign


@dataclass(frozen=True)
class HashId:
    """The projections are drawn from the seed, and are no weights."""

    numbers: int  # of the given embedding
    bits: int = 32
    bases: tuple[int, ...] = (2, 4, 16)
    seed: int = 7

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise ConfigError(f"a HashID has {self.bits} bits; allowed: 1 to {MOST_BITS}")

    @property
    def numerals(self) -> Numerals:
        return Numerals(2**self.bits - 1, self.bases, FIRST)

    @property
    def rows(self) -> int:
        return self.numerals.rows

    @property
    def width(self) -> int:
        return self.numerals.width

    def codes(self, values: Tensor) -> Tensor:
        """values: (n, numbers); a row with NaN, or of zeros, is missing. Raises DataError where the embeddings have another length."""
        missing = values.isnan().any(dim=1) | (values == 0).all(dim=1)
        number = self.hashes(torch.where(missing[:, None], 0, values))
        return self.numerals.codes(torch.where(missing, MISSING, -1), number, missing)

    def hashes(self, values: Tensor) -> Tensor:
        """(n,) int64: the bits of embeddings (n, numbers) as whole numbers, the first projection the lowest bit."""
        if values.shape[1] != self.numbers:
            raise DataError(f"an embedding has {values.shape[1]} numbers, but the model was trained on {self.numbers}")
        signs = values.double() @ torch.from_numpy(_projections(self.numbers, self.bits, self.seed)) >= 0
        return (signs.long() << torch.arange(self.bits)).sum(dim=1)


@functools.lru_cache(maxsize=64)
def _projections(numbers: int, bits: int, seed: int) -> np.ndarray:
    """(numbers, bits) float64."""
    return np.random.default_rng(seed).standard_normal((numbers, bits))

"""Multiple numeral systems (MNS; Pan et al., section 3.2, equation 2): a number as its digits in several bases, so that order is kept.

Numbers that share their high digits share rows, and what one base tears apart at a carry another one holds together. Rows: one for a
missing number, one for a number below the range of the training split and one above it, then base * (k - 1) + digit of each base for
the k-th digit, the lowest first. With the paper's own row number, base * k + digit in one table, digits of different bases collide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError

MISSING, BELOW, ABOVE, FIRST = 0, 1, 2, 3
KINDS = ("integer", "uniform", "log", "quantile")


@dataclass(frozen=True)
class Numerals:
    """Where the digits of the numbers 0 to `last` have their rows: those of each base after the other, behind `first` other rows."""

    last: int
    bases: tuple[int, ...]
    first: int

    @property
    def lengths(self) -> list[int]:
        """Digits of the last number in each base."""
        return [digits_of(self.last, base) for base in self.bases]

    @property
    def rows(self) -> int:
        return self.first + sum(base * length for base, length in zip(self.bases, self.lengths, strict=True))

    @property
    def width(self) -> int:
        return 1 + sum(self.lengths)

    def codes(self, other: Tensor, numbers: Tensor, missing: Tensor) -> Tensor:
        """(n, width) int64: other (n,), a row below `first` or -1; then the rows of the digits of numbers (n,) int64, -1 where missing."""
        parts, begin = [other[:, None]], self.first
        for base, length in zip(self.bases, self.lengths, strict=True):
            parts.append(torch.where(missing[:, None], -1, numeral_rows(numbers[:, None], base, length) + begin))
            begin += base * length
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class NumeralSystems:
    """The steps into which numbers are cut, and the bases in which a step is written. `fitted` makes one from the training split."""

    low: float  # the range of the training split
    high: float
    steps: int  # number of whole steps: 0 to steps - 1
    kind: str = "uniform"  # integer: the number itself; uniform and log (of 1 + |x|, with its sign): equal steps; quantile: equal shares
    bases: tuple[int, ...] = (2, 3, 10)
    edges: tuple[float, ...] = ()  # quantile: where the steps 1, 2, ... begin, ascending

    @classmethod
    def fitted(cls, values: np.ndarray, kind: str = "quantile", steps: int = 256, bases: Sequence[int] = (2, 3, 10)) -> NumeralSystems:
        """For the numbers (n,) of the training split; NaN are missing ones.

        Raises DataError where no number is there, or all are the same.
        """
        numbers = np.asarray(values, np.float64)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers) or numbers.min() == numbers.max():
            what = f"is always {numbers[0]:g}" if len(numbers) else "is always missing"
            raise DataError(f"the number {what} in the training split: leave the field out")
        low, high = float(numbers.min()), float(numbers.max())
        if kind == "integer":
            return cls(low, high, int(math.floor(high) - math.floor(low)) + 1, kind, tuple(bases))
        if kind != "quantile":
            return cls(low, high, steps, kind, tuple(bases))
        edges = _edges(numbers, steps)
        return cls(low, high, len(edges) + 1, kind, tuple(bases), tuple(map(float, edges)))

    @property
    def numerals(self) -> Numerals:
        return Numerals(self.steps - 1, self.bases, FIRST)

    @property
    def lengths(self) -> list[int]:
        """Digits of the last step in each base."""
        return self.numerals.lengths

    @property
    def rows(self) -> int:
        return self.numerals.rows

    @property
    def width(self) -> int:
        return self.numerals.width

    def codes(self, values: Tensor) -> Tensor:
        """values: (n,) numbers, NaN where missing. First the row of missing, below or above, or none; then the digits, none if missing.

        A number out of range has the digits of the nearest step too: its own row is learnt only if training meets it.
        """
        numbers = values.double()
        missing = numbers.isnan()
        outside = torch.where(numbers < self.low, BELOW, torch.where(numbers > self.high, ABOVE, -1))
        return self.numerals.codes(torch.where(missing, MISSING, outside), self.step(numbers), missing)

    def step(self, values: Tensor) -> Tensor:
        """(n,) int64: the step of each number (n,) float64, those out of range the nearest one; anything where NaN."""
        inside = torch.where(values.isnan(), self.low, values).clamp(self.low, self.high)
        if self.kind == "quantile":
            return torch.searchsorted(torch.tensor(self.edges, dtype=torch.float64), inside, right=True)
        low, high = self.low, self.high
        if self.kind == "integer":
            return (inside.floor() - math.floor(low)).long()
        if self.kind == "log":
            inside = inside.sign() * inside.abs().log1p()
            low, high = (math.copysign(math.log1p(abs(bound)), bound) for bound in (low, high))
        return ((inside - low) / (high - low) * self.steps).long().clamp(0, self.steps - 1)


def _edges(numbers: np.ndarray, steps: int) -> np.ndarray:
    """Where the steps 1, 2, ... begin, ascending, fewer than `steps`: a step per value where there are so few of them.

    Else a value that has more than its share of the rows has a step to itself, and the other values share the rest alike: of a number
    that is nearly always 0, plain quantiles would leave a handful of steps to all that is not.
    """
    values, counts = np.unique(numbers, return_counts=True)
    if len(values) <= steps:
        return values[1:]
    frequent = counts * steps > len(numbers)
    own = np.flatnonzero(frequent)
    begins = np.union1d(values[own], values[np.minimum(own + 1, len(values) - 1)])
    rest = numbers[~np.isin(numbers, values[own])]
    shares = max(1, steps - len(begins))
    edges = np.union1d(begins, np.quantile(rest, np.arange(1, shares) / shares, method="inverted_cdf")) if shares > 1 else begins
    return edges[edges > values[0]]


def digits_of(number: int, base: int) -> int:
    """How many digits the number has in the base, at least 1. Whole-number arithmetic: a logarithm errs at powers of the base."""
    count = 1
    while number >= base:
        number //= base
        count += 1
    return count


def numeral_rows(numbers: Tensor, base: int, length: int) -> Tensor:
    """(n, length) int64: base * (k - 1) + the k-th digit of numbers (n, 1) int64, the lowest first."""
    powers = torch.tensor([base**place for place in range(length)])
    return numbers // powers % base + base * torch.arange(length)

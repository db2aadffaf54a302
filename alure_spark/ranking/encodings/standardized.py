"""A number by its mean and deviation, for what depends on it smoothly: one weight, where digits (numeral_systems.py) have many rows.

Few rows teach a weight long before they teach digits; a field may be read both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError


@dataclass(frozen=True)
class Standardized:
    """(x - center) / spread, of the number itself or of log(1 + |x|) with its sign."""

    center: float
    spread: float
    log: bool = True

    @classmethod
    def fitted(cls, values: np.ndarray, log: bool = True) -> Standardized:
        """For the numbers (n,) of the training split; NaN are missing ones. Raises DataError where none is there, or all are the same."""
        numbers = np.asarray(values, np.float64)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers) or numbers.min() == numbers.max():
            what = f"is always {numbers[0]:g}" if len(numbers) else "is always missing"
            raise DataError(f"the number {what} in the training split: leave the field out")
        if log:
            numbers = np.copysign(np.log1p(np.abs(numbers)), numbers)
        return cls(float(numbers.mean()), float(numbers.std()), log)

    def standardized(self, values: Tensor) -> Tensor:
        """(n, 1) float32 of values (n,), NaN where missing."""
        numbers = values.double()
        if self.log:
            numbers = numbers.sign() * numbers.abs().log1p()
        return ((numbers - self.center) / self.spread)[:, None].to(torch.float32)

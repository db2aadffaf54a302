"""An embedding of another model, read as one block around its mean: its numbers may be far smaller than what else a layer reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config import ADAPTERS, as_dict
from ...errors import ConfigError, shown


@dataclass
class Moments:
    """Sums over the rows of an embedding that are there."""

    count: int = 0
    total: np.ndarray | float = 0.0  # (numbers,) float64
    squares: np.ndarray | float = 0.0  # (numbers,) float64

    def add(self, values: Tensor) -> None:
        """values (n, numbers), NaN in rows that are missing."""
        there = values[~values.isnan().any(dim=1)].double().numpy()
        self.count += len(there)
        self.total = self.total + there.sum(axis=0)
        self.squares = self.squares + np.square(there).sum(axis=0)


@dataclass(frozen=True)
class Given:
    """(x - center) / spread, with one spread for all numbers: which of them vary more stays as it is."""

    numbers: int
    center: tuple[float, ...] = ()  # a mean for each number; empty: as it is given, in models of before
    spread: float = 1.0
    adapter: str = "linear"  # how the numbers become vectors (ranking/adapters.py)

    def __post_init__(self) -> None:
        if self.adapter not in ADAPTERS:
            raise ConfigError(f"adapter is {shown(self.adapter)}; allowed: {', '.join(ADAPTERS)}")

    @classmethod
    def fitted(cls, moments: Moments, numbers: int, adapter: str = "linear") -> Given:
        """For the rows of the training split, of which there is one at least."""
        mean = np.asarray(moments.total) / moments.count
        variance = float(np.clip(np.asarray(moments.squares) / moments.count - mean**2, 0, None).mean())
        return cls(numbers, tuple(mean.tolist()), variance**0.5 if variance > 1e-12 else 1.0, adapter)

    def settings(self) -> dict[str, Any]:
        """Plain values, without the adapter where it is that of every model of before."""
        return {name: value for name, value in as_dict(self).items() if name != "adapter" or value != "linear"}

    def standardized(self, values: Tensor) -> Tensor:
        """(n, numbers) of values (n, numbers), NaN where missing. Values of another width stay as they are, and are refused later."""
        if len(self.center) != values.shape[1]:
            return values
        return (values - torch.tensor(self.center, dtype=values.dtype)) / self.spread

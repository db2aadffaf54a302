"""What an objective asks of the other processes of a training; alone there are none."""

from __future__ import annotations

from torch import Tensor


class Alone:
    """One process: it holds all rows of a batch."""

    rank, size = 0, 1

    def total(self, value: Tensor) -> Tensor:
        """The sum of a number over the processes; no gradient passes."""
        return value.detach()

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of all processes, one process after the other, with their gradients."""
        return rows


ALONE = Alone()

"""What an encoding of a field is: a pure function from values to codes, the same for every embedding table."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Encoding(Protocol):
    """A frozen dataclass of plain values, so that JSON holds it beside the weights (config.build brings it back)."""

    @property
    def rows(self) -> int:
        """Embedding rows that the codes name."""

    @property
    def width(self) -> int:
        """Codes of one value, whose rows are summed."""

    def codes(self, values: Tensor) -> Tensor:
        """(n, width) int64, each 0 to rows - 1, or -1 for no row. values: (n,) or (n, numbers), as the encoding says.

        Raises DataError on a value that it cannot have been made for.
        """

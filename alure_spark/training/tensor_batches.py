"""Batches of rows that lie in memory as tensors, for models that are small enough to be trained so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor


class TensorBatches:
    """Rows of several tensors (n, ...), cut into batches of `rows` in an order of their own per epoch; the last batch may be smaller."""

    def __init__(self, tensors: Sequence[Tensor], rows: int, order: Callable[[int], Tensor]) -> None:
        """order: epoch -> (n,) int64 permutation of the rows. A training can be resumed only if it gives an epoch the same one again."""
        self.tensors, self.rows, self.order = tensors, rows, order

    @property
    def steps(self) -> int:
        return -(-len(self.tensors[0]) // self.rows)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        for chosen in self.order(epoch).split(self.rows)[start:]:
            yield tuple(tensor[chosen] for tensor in self.tensors)

"""The two splits of a ranking model's impressions: what steps learn from, and what validates.

Enters: batches of users with all of their impressions. Leaves: the same users with the impressions of one split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..batches.batch import JaggedBatch
from ..batches.epochs import Batches
from ..errors import DataError


class TrainingSplit:
    """The impressions of a loader's batches that may be learnt from, as the loop hands them to a model's `losses`."""

    def __init__(self, loader: Batches) -> None:
        self.loader = loader

    @property
    def steps(self) -> int:
        return self.loader.steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[JaggedBatch]]:
        for batch in self.loader.batches(epoch, start):
            yield (split_of(batch, validation=False),)

    def in_order(self) -> Iterator[JaggedBatch]:
        for batch in self.loader.in_order():
            yield split_of(batch, validation=False)


def split_of(batch: JaggedBatch, validation: bool) -> JaggedBatch:
    """The batch with the impressions of one split."""
    shown = batch.impressions
    if shown is None:
        raise DataError("the batch has no impressions to be ranked")
    return replace(batch, impressions=shown.select(shown.validation == validation))

"""The two splits of a ranking model's impressions: what steps learn from, and what validates.

Enters: batches of users with all of their impressions. Leaves: the same users with the impressions of one split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..batches.batch import JaggedBatch
from ..batches.epochs import Batches
from ..errors import DataError
from ..ranking.network import RankingNetwork
from .loop import EpochBatches


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


class Alternating:
    """A training split in whose first epoch what is copied of another model is frozen, in the second it learns, and so on in turn."""

    def __init__(self, split: EpochBatches, network: RankingNetwork) -> None:
        self.split, self.network = split, network

    @property
    def steps(self) -> int:
        return self.split.steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        for parameter in self.network.copied():
            parameter.requires_grad_(epoch % 2 == 1)
        return self.split.batches(epoch, start)


def split_of(batch: JaggedBatch, validation: bool) -> JaggedBatch:
    """The batch with the impressions of one split."""
    shown = batch.impressions
    if shown is None:
        raise DataError("the batch has no impressions to be ranked")
    return replace(batch, impressions=shown.select(shown.validation == validation))

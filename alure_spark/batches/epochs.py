"""What gives the batches of an epoch: readers of packed rows, users in memory, and changes of another's batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from .batch import JaggedBatch, select_users


class Batches(Protocol):
    """What a user model is trained and evaluated on."""

    @property
    def steps(self) -> int:
        """Batches per epoch; the last one may be smaller."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[JaggedBatch]:
        """The epoch's batches from the start-th on: the same ones whether or not those before were read. Every user comes once."""

    def in_order(self) -> Iterator[JaggedBatch]:
        """All users once, always in the same order."""


class ChangedBatches(ABC):
    """The batches of another loader, each changed."""

    def __init__(self, loader: Batches) -> None:
        self.loader = loader

    @abstractmethod
    def changed(self, batch: JaggedBatch) -> JaggedBatch: ...

    @property
    def steps(self) -> int:
        return self.loader.steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[JaggedBatch]:
        return map(self.changed, self.loader.batches(epoch, start))

    def in_order(self) -> Iterator[JaggedBatch]:
        return map(self.changed, self.loader.in_order())


class MemoryLoader:
    """Batches of users that lie in memory: for data that no table holds."""

    def __init__(self, batch: JaggedBatch, batch_users: int, seed: int) -> None:
        self.batch, self.batch_users, self.seed = batch, batch_users, seed

    @property
    def steps(self) -> int:
        return -(-len(self.batch) // self.batch_users)

    def batches(self, epoch: int, start: int = 0) -> Iterator[JaggedBatch]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.batch))
        yield from (select_users(self.batch, users) for users in torch.from_numpy(order).split(self.batch_users)[start:])

    def in_order(self) -> Iterator[JaggedBatch]:
        yield from (select_users(self.batch, users) for users in torch.arange(len(self.batch)).split(self.batch_users))

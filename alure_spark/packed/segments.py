"""Training rows of several segments: packed and read one segment at a time, mixed batch by batch.

Enters: rows of `training_examples`. Leaves: `Segments`, for as long as the folders of packed rows live.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..batches.batch import JaggedBatch
from ..batches.layout import GivesLayout, Layout
from ..batches.vocabulary import Vocabulary
from ..config import EVERYBODY, TrainingConfig
from .loader import Loader
from .readers import open_reader
from .rows import exported


class Segments:
    """Batches of several segments, each batch of one: those of a loader per segment, in an order that depends on (seed, epoch) alone."""

    def __init__(self, loaders: Sequence[Loader]) -> None:
        self.loaders = tuple(loaders)

    def decoding(self, spec: GivesLayout, vocabulary: Vocabulary, seed: int | None = None) -> Segments:
        """The same batches as another model reads them; with another seed, in another order."""
        return Segments([loader.decoding(spec, vocabulary, seed) for loader in self.loaders])

    def only(self, segment: str) -> Segments:
        """The batches of one segment."""
        return Segments([loader for loader in self.loaders if loader.segment == segment])

    @property
    def users(self) -> int:
        return sum(loader.users for loader in self.loaders)

    @property
    def steps(self) -> int:
        return sum(loader.steps for loader in self.loaders)

    def batches(self, epoch: int, start: int = 0) -> Iterator[JaggedBatch]:
        turns = np.repeat(np.arange(len(self.loaders)), [loader.steps for loader in self.loaders])
        turns = np.random.default_rng([self.loaders[0].seed, epoch, 2]).permutation(turns)
        done = np.bincount(turns[:start], minlength=len(self.loaders))
        with ExitStack() as open_readers:
            each = [
                open_readers.enter_context(closing(loader.batches(epoch, int(first))))
                for loader, first in zip(self.loaders, done, strict=True)
            ]
            for turn in turns[start:]:
                yield next(each[turn])

    def in_order(self) -> Iterator[JaggedBatch]:
        """The segments in turn, each as often as it has batches: the first ones, which what is fitted looks at, are of all of them."""
        places = [(step / loader.steps, number) for number, loader in enumerate(self.loaders) for step in range(loader.steps)]
        with ExitStack() as open_readers:
            each = [open_readers.enter_context(closing(loader.in_order())) for loader in self.loaders]
            for _, number in sorted(places):
                yield next(each[number])


@contextmanager
def segment_loaders(
    examples: DataFrame, layout: Layout, vocabulary: Vocabulary, training: TrainingConfig, scratch: str, name: str
) -> Iterator[Segments]:
    """A loader per segment of the examples, over packed rows below scratch that are deleted at the end (packed/rows.exported).

    The packed rows hold all of the layout, so that models of several policies can be evaluated on them; a reader reads what its policy
    leaves. Raises as `exported` and `open_reader` do.
    """
    names = sorted(row["segment"] for row in examples.select("segment").distinct().collect())
    with ExitStack() as folders:
        loaders = []
        for segment in names or [EVERYBODY]:
            rows = examples.where(F.col("segment") == segment)
            place = name if segment == EVERYBODY else f"{name}-{segment}"
            folder = folders.enter_context(exported(rows, layout, scratch, training.export_rows, place))
            reader = open_reader(training.reader, folder)
            loaders.append(Loader(reader, layout, vocabulary, training.batch_users, training.seed, segment))
        yield Segments(loaders)

"""Packed rows -> batches in an order that depends on (seed, epoch) alone. The only place that imports petastorm.

Enters: the folder of training/rows.py. Leaves: `JaggedBatch`. Two readers, petastorm and pyarrow, give the same row groups in the
order they are asked for; everything that is random or stateful is in the Loader, so that both give identical batches.
"""

from __future__ import annotations

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..batches.batch import JaggedBatch
from ..batches.decode import Jagged, jagged_batch
from ..batches.layout import GivesLayout, Layout
from ..batches.vocabulary import Vocabulary
from ..config import EVERYBODY, TrainingConfig
from ..errors import ConfigError, DataError, nearest
from .rows import KINDS, NAMES, exported, file_column

Rows = dict[str, np.ndarray]  # column -> (n,) object of bytes, as_of_ms (n,) int64
WINDOW = 4  # row groups whose users are mixed; the Loader holds these and one batch, the reader up to 3 more


class Reader(ABC):
    """Row groups of a folder of packed rows, by bucket: `rows` (row_groups,) are their users, from the footers."""

    def __init__(self, folder: str) -> None:
        buckets = {path: int(path.parent.name.removeprefix("bucket=")) for path in Path(folder).absolute().glob("bucket=*/*.parquet")}
        self.files = sorted(buckets, key=lambda path: buckets[path])
        footers = [pq.read_metadata(path) for path in self.files]
        self.rows = [footer.num_rows for footer in footers]
        if not sum(self.rows):
            raise DataError(
                f"there are no packed rows in {folder}: it is written by training/rows.exported, and lake.scratch must be a folder that "
                "driver and executors both reach"
            )
        if len(set(buckets.values())) < len(footers) or any(footer.num_row_groups != 1 for footer in footers):
            raise DataError(
                f"a bucket in {folder} is not one file of one row group: lower training.export_rows, and export into an empty folder"
            )

    @property
    def row_groups(self) -> int:
        return len(self.files)

    @abstractmethod
    def read(self, order: Sequence[int], columns: Sequence[str]) -> Generator[Rows, None, None]:
        """These columns of the row groups `order`, one after the other; petastorm reads up to 3 ahead in a thread."""


class ArrowReader(Reader):
    def read(self, order: Sequence[int], columns: Sequence[str]) -> Generator[Rows, None, None]:
        for group in order:
            table = pq.ParquetFile(self.files[group]).read(columns=[file_column(name) for name in columns])
            yield {name: table[file_column(name)].to_numpy() for name in columns}


class PetastormReader(Reader):
    def read(self, order: Sequence[int], columns: Sequence[str]) -> Generator[Rows, None, None]:
        make_batch_reader = _petastorm()
        if not len(order):
            return
        # Files come in the order given, if one worker reads them: with more, petastorm hands out row groups out of turn. It is to
        # read for ever: asked for one epoch, its pool can take the last row groups for read before they are, and loses them.
        # It cuts a URL at '#' and '?', and decodes none: it is given a link of a plain name to each bucket.
        with TemporaryDirectory(prefix="alure-") as links:
            for group in set(order):
                Path(links, str(group)).symlink_to(self.files[group])
            reader = make_batch_reader(
                [f"file://{links}/{group}" for group in order],
                schema_fields=[re.escape(file_column(name)) + "$" for name in columns],
                shuffle_row_groups=False,
                num_epochs=None,
                workers_count=1,
                results_queue_size=1,
            )
            try:
                for rows in islice(reader, len(order)):
                    yield {name: getattr(rows, file_column(name)) for name in columns}
            finally:  # not `with reader`: its exit prints to stdout
                reader.stop()
                reader.join()


def _petastorm() -> Any:
    try:
        from petastorm import make_batch_reader
    except (ImportError, AttributeError) as error:  # AttributeError: pyarrow is too new for it
        raise ConfigError(
            f"training.reader is 'petastorm', which cannot be imported here ({error}): pip install 'alure_spark[petastorm]', "
            "or set training.reader=pyarrow"
        ) from error
    # It lives on pyarrow's old file systems and datasets, and says so for each row group, in its own threads.
    warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
    return make_batch_reader


READERS: dict[str, type[Reader]] = {"petastorm": PetastormReader, "pyarrow": ArrowReader}


def open_reader(kind: str, folder: str) -> Reader:
    """A reader of training.reader's kind. Raises ConfigError on another kind or without petastorm, DataError on a folder without rows."""
    if kind not in READERS:
        raise ConfigError(f"training.reader is {kind!r}{nearest(kind, READERS)}")
    if kind == "petastorm":
        _petastorm()
    return READERS[kind](folder)


class Loader:
    """Batches of the users in a folder of packed rows, all of one segment.

    Memory: WINDOW row groups, the reader's few, and one batch. A batch ignores the borders of row groups and windows.
    """

    def __init__(
        self,
        reader: Reader,
        layout: Layout,
        vocabulary: Vocabulary,
        batch_users: int,
        seed: int,
        segment: str = EVERYBODY,
        with_impressions: bool = True,
    ) -> None:
        self.reader, self.layout, self.vocabulary = reader, layout, vocabulary
        self.batch_users, self.seed, self.segment, self.with_impressions = batch_users, seed, segment, with_impressions
        self.kinds = layout.columns() | (layout.impression_columns() if with_impressions else {})
        self.widths = layout.column_widths()
        flags = [f"{name}__present" for name, kind in self.kinds.items() if kind == "categorical"]
        self.columns = [*NAMES, "as_of_ms", *self.kinds, *flags]

    def decoding(self, spec: GivesLayout, vocabulary: Vocabulary, seed: int | None = None) -> Loader:
        """The same batches as another model reads them; with another seed, in another order."""
        layout, seed = spec.layout(self.with_impressions, self.segment), self.seed if seed is None else seed
        return Loader(self.reader, layout, vocabulary, self.batch_users, seed, self.segment, self.with_impressions)

    @property
    def users(self) -> int:
        return sum(self.reader.rows)

    @property
    def steps(self) -> int:
        return -(-self.users // self.batch_users)

    def batches(self, epoch: int, start: int = 0) -> Generator[JaggedBatch, None, None]:
        """Row groups are permuted, then the users inside windows of WINDOW row groups."""

        def shuffled(n: int, part: int) -> np.ndarray:
            return np.random.default_rng([self.seed, epoch, part]).permutation(n)

        order = shuffled(self.reader.row_groups, 0).tolist()
        yield from self._cut(order, lambda n, window: shuffled(n, 1 + window), start)

    def in_order(self) -> Generator[JaggedBatch, None, None]:
        """By bucket, hash and id."""
        yield from self._cut(list(range(self.reader.row_groups)), lambda n, window: np.arange(n), 0)

    def _cut(self, order: list[int], arranged: Callable[[int, int], np.ndarray], start: int) -> Iterator[JaggedBatch]:
        """Batches of the row groups in that order; arranged(n, window) is the order (n,) of the users of a window."""
        windows = [order[at : at + WINDOW] for at in range(0, len(order), WINDOW)]
        skip, first = start * self.batch_users, 0
        while first < len(windows) and skip >= self._users(windows[first]):  # windows that are skipped as a whole are not read
            skip -= self._users(windows[first])
            first += 1
        waiting: Rows = {}
        with closing(self.reader.read([group for window in windows[first:] for group in window], self.columns)) as groups:
            for number in range(first, len(windows)):
                users = arranged(self._users(windows[number]), number)[skip:]
                skip = 0
                waiting = _joined([waiting, _taken(_joined([next(groups) for _ in windows[number]]), users)])
                while len(waiting["user_id"]) >= self.batch_users:
                    users = np.arange(len(waiting["user_id"]))
                    yield self._batch(_taken(waiting, users[: self.batch_users]))
                    waiting = _taken(waiting, users[self.batch_users :])
        if waiting and len(waiting["user_id"]):
            yield self._batch(waiting)

    def _users(self, groups: Sequence[int]) -> int:
        return sum(self.reader.rows[group] for group in groups)

    def _batch(self, rows: Rows) -> JaggedBatch:
        segments = {segment.decode() for segment in rows["segment"]}
        if segments != {self.segment}:
            raise DataError(
                f"the packed rows are of the segments {sorted(segments)}, the batch of '{self.segment}': export one segment at a time"
            )
        columns = {}
        for name, kind in self.kinds.items():
            offsets, values = _unpacked(rows[name], KINDS[kind], self.widths.get(name))
            present = _unpacked(rows[f"{name}__present"], "?")[1] if kind == "categorical" else None
            columns[name] = Jagged(offsets, values, present)
        user_ids, countries = ([value.decode() for value in rows[name]] for name in ("user_id", "country"))
        return jagged_batch(
            user_ids, countries, rows["as_of_ms"], columns, self.layout, self.vocabulary, self.segment, self.with_impressions
        )


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
    """A loader per segment of the examples, over packed rows below scratch that are deleted at the end (training/rows.exported).

    The packed rows hold all of the layout, so that models of several policies can be judged on them; a reader reads what its policy
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


def _joined(parts: Sequence[Rows]) -> Rows:
    """The rows one after the other; parts without columns are left out."""
    full = [part for part in parts if part]
    return {name: np.concatenate([part[name] for part in full]) for name in full[0]}


def _taken(rows: Rows, which: np.ndarray) -> Rows:
    """A copy of these rows; a view would keep the others in memory."""
    return {name: values[which] for name, values in rows.items()}


def _unpacked(column: np.ndarray, dtype: str, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (n + 1,) int64 and values of the dtype of n packed arrays, (n, width) where there is a width."""
    sizes = np.fromiter(map(len, column), np.int64, len(column)) // (np.dtype(dtype).itemsize * (width or 1))
    # A bytearray, not bytes: torch shares only memory that may be written to.
    values = np.frombuffer(bytearray().join(column), dtype)
    return np.concatenate([[0], np.cumsum(sizes)]), values if width is None else values.reshape(-1, width)

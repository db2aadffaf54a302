"""Packed rows -> batches in an order that depends on (seed, epoch) alone.

Enters: a reader of the folder of packed/rows.py. Leaves: `JaggedBatch`. Everything that is random or stateful is here, so that all
readers give identical batches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

import numpy as np

from ..batches.batch import JaggedBatch
from ..batches.decode import Jagged, jagged_batch
from ..batches.layout import GivesLayout, Layout
from ..batches.vocabulary import Vocabulary
from ..config import EVERYBODY
from ..errors import DataError
from .row_groups import Reader, Rows
from .rows import KINDS, NAMES

WINDOW = 4  # row groups whose users are mixed; the Loader holds these and one batch, the reader up to 3 more


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

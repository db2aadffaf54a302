"""Which embedding row an id has: the table `vocabularies` as arrays (house rule 1).

Enters: the table's columns, or what a saved model carries. Leaves: rows of embedding tables for id hashes. A space is `item_id`,
`account_id` or a categorical attribute. Row 0 stands for every missing id, and for every unknown one unless there are hash
buckets: rows 1 to `buckets` of every space, among which unknown ids are spread. So a model never fails on a new id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import DataError

ITEM, ACCOUNT = "item_id", "account_id"  # spaces that every source has, and that ads share with items
PREFIX = "vocabulary."
BUCKETS = f"{PREFIX}buckets"


@dataclass(frozen=True)
class Vocabulary:
    """Per space the known ids: hashes (n,) int64, ascending, and their embedding rows (n,) int64, each at least 1."""

    entries: Mapping[str, tuple[np.ndarray, np.ndarray]]
    buckets: int = 0

    @classmethod
    def from_arrays(cls, space: np.ndarray, hash: np.ndarray, row: np.ndarray, buckets: int = 0) -> Vocabulary:
        """From the table's columns, all (n,): space of strings, hash and row int64, in any order.

        Raises DataError where a space has a row that is missing's or a bucket's, or one hash or one row twice: two ids would share
        an embedding.
        """
        space, hash, row = np.asarray(space, object), np.asarray(hash, np.int64), np.asarray(row, np.int64)
        entries = {}
        for name in sorted(set(space)):
            mine = np.flatnonzero(space == name)
            hashes, rows = hash[mine], row[mine]
            order = np.argsort(hashes)
            entries[name] = hashes[order], rows[order]
            for what, values in (("hash", hashes), ("row", rows)):
                if len(np.unique(values)) < len(values):
                    raise DataError(f"the vocabulary gives a {what} of the space '{name}' twice: rebuild the table 'vocabularies'")
            if rows.min() <= buckets:
                raise DataError(
                    f"the vocabulary has row {rows.min()} in the space '{name}'; allowed: {buckets + 1} and above (0 is the unknown id, "
                    "then come vocabulary.hash_buckets, which cannot grow once rows are given: that takes a new lake)"
                )
        return cls(entries, buckets)

    def grown(self, ids: Mapping[str, np.ndarray]) -> Vocabulary:
        """With a row for each further id; a row once given stays. ids: space -> hashes (n,) int64, in any order, also often.

        New rows follow the last one of their space in the order of the hashes, so that they do not depend on the order of ids.
        """
        entries, nothing = dict(self.entries), np.zeros(0, np.int64)
        for space, hashes in ids.items():
            new = np.unique(hashes[~self.knows(space, hashes)])
            if len(new):
                known, rows = entries.get(space, (nothing, nothing))
                hash, row = np.concatenate([known, new]), np.concatenate([rows, self.size(space) + np.arange(len(new))])
                order = np.argsort(hash)
                entries[space] = hash[order], row[order]
        return replace(self, entries=dict(sorted(entries.items())))

    def size(self, space: str) -> int:
        """Rows that an embedding table of the space needs, with the unknown one and the buckets."""
        return 1 + (int(self.entries[space][1].max()) if space in self.entries else self.buckets)

    def knows(self, space: str, hashes: np.ndarray) -> np.ndarray:
        """(n,) bool: which of the hashes (n,) int64 have a row of their own."""
        if space not in self.entries:
            return np.zeros(len(hashes), bool)
        known = self.entries[space][0]
        return known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes

    def rows(self, space: str, hashes: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """(n,) int64 embedding rows of hashes (n,) int64; 0 where not present (n,) bool (None: all are), or unknown without buckets."""
        other = np.mod(hashes, self.buckets) + 1 if self.buckets else np.zeros(len(hashes), np.int64)
        if space in self.entries:
            known, rows = self.entries[space]
            place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            other = np.where(known[place] == hashes, rows[place], other)
        return other if present is None else np.where(present, other, 0)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays under the names `vocabulary.<space>.hash` and `vocabulary.<space>.row`, to be saved beside the weights."""
        parts = ("hash", "row")
        arrays = {f"{PREFIX}{space}.{part}": pair[at] for space, pair in self.entries.items() for at, part in enumerate(parts)}
        return arrays | ({BUCKETS: np.array([self.buckets])} if self.buckets else {})

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Vocabulary:
        """The inverse of state(); names of other things (weights) are left alone."""
        spaces = [name[len(PREFIX) : -len(".hash")] for name in state if name.startswith(PREFIX) and name.endswith(".hash")]
        entries = {space: (np.asarray(state[f"{PREFIX}{space}.hash"]), np.asarray(state[f"{PREFIX}{space}.row"])) for space in spaces}
        return cls(entries, int(state[BUCKETS][0]) if BUCKETS in state else 0)

    def require_fits(self, sizes: Mapping[str, int]) -> None:
        """Raises DataError when an embedding table of `sizes` (space -> rows) is too small for the ids of its space."""
        for space, size in sizes.items():
            if self.size(space) > size:
                raise DataError(
                    f"the vocabulary is newer than the model: the space '{space}' has {self.size(space)} rows, the model {size}: "
                    "use the vocabulary that was saved with the model, or train a new model"
                )

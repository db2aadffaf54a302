"""What users had, as arrays: the one input of every classic baseline.

Enters: (user, item hash, known_at) rows. Leaves: `ItemHistories`, and its binary matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class ItemHistories:
    """Users' distinct items, oldest first (an item stands where it was first seen)."""

    user_ids: np.ndarray  # (U,) object or str, ascending
    indptr: np.ndarray  # (U + 1,) int64: user u has items[indptr[u]:indptr[u + 1]]
    items: np.ndarray  # (N,) int64 item hashes

    @classmethod
    def from_events(cls, user_ids: np.ndarray, items: np.ndarray, known_at_ms: np.ndarray) -> ItemHistories:
        """From one row per event, in any order and with repetitions; equal times are ordered by item hash."""
        order = np.lexsort((items, known_at_ms))
        known, user = np.unique(np.asarray(user_ids)[order], return_inverse=True)
        order = order[np.argsort(user, kind="stable")]
        user, items = np.sort(user, kind="stable"), np.asarray(items, np.int64)[order]
        by_pair = np.lexsort((np.arange(len(items)), items, user))  # equal pairs side by side, the first seen in front
        again = (user[by_pair][1:] == user[by_pair][:-1]) & (items[by_pair][1:] == items[by_pair][:-1])
        first = np.ones(len(items), bool)
        first[by_pair[1:][again]] = False
        return cls(known, offsets(np.bincount(user[first], minlength=len(known))), items[first])

    @property
    def counts(self) -> np.ndarray:
        """(U,) distinct items per user."""
        return np.diff(self.indptr)

    def select(self, users: np.ndarray) -> ItemHistories:
        """The histories of the users at these rows (ascending indices, or a mask)."""
        rows = np.arange(len(self.user_ids))[users]
        keep = np.zeros(len(self.user_ids), bool)
        keep[rows] = True
        return ItemHistories(self.user_ids[rows], offsets(self.counts[rows]), self.items[np.repeat(keep, self.counts)])

    def vocabulary(self) -> np.ndarray:
        """(I,) int64: every item that some user had, ascending."""
        return np.unique(self.items)

    def matrix(self, vocabulary: np.ndarray) -> sparse.csr_matrix:
        """(U, I) float64, 1 where the user had the item; items outside the vocabulary (ascending) are left out."""
        return pattern(self.indptr, self.items, vocabulary, np.float64)


def pattern(indptr: np.ndarray, items: np.ndarray, vocabulary: np.ndarray, dtype: type) -> sparse.csr_matrix:
    """(rows, I) ones at the known items of jagged rows, in the rows' own order."""
    column = np.searchsorted(vocabulary, items)
    known = column < len(vocabulary)
    known[known] = vocabulary[column[known]] == items[known]
    kept = np.concatenate([[0], np.cumsum(known)])[indptr]
    return sparse.csr_matrix((np.ones(kept[-1], dtype), column[known], kept), shape=(len(indptr) - 1, len(vocabulary)))


def offsets(counts: np.ndarray) -> np.ndarray:
    """(n + 1,) int64 borders of jagged rows of these lengths."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

"""Exact nearest users on the driver, for evaluation on a bounded set of users: the graphs that ours must beat.

Enters: a user-item matrix or user vectors, and each user's group (country). Leaves: (n, k) int64 rows of neighbours, nearest
first, -1 where the group has fewer than k others. Neighbours never cross a group; nobody is their own neighbour; ties (to
1e-9, so that the order of a sum does not decide) go to the smaller index. Costs n^2 products per group, in blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from .item_vectors import idf_rows, unit_rows

BLOCK_CELLS = 8_000_000  # similarities held at once


def idf_cosine_neighbours(had: sparse.csr_matrix, groups: np.ndarray, k: int) -> np.ndarray:
    """Neighbours by the cosine of idf-weighted items; had (n, I) binary, idf over all n users."""
    weighted = idf_rows(had)
    return _nearest(lambda rows, members: (weighted[rows] @ weighted[members].T).toarray(), groups, k)


def embedding_neighbours(vectors: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Neighbours by the cosine of the rows of vectors (n, d)."""
    unit = unit_rows(np.asarray(vectors, np.float64))
    return _nearest(lambda rows, members: unit[rows] @ unit[members].T, groups, k)


def random_neighbours(groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """k others of the own group, drawn without replacement."""
    random = np.random.default_rng(seed)
    return _nearest(lambda rows, members: random.random((len(rows), len(members))), groups, k)


def _nearest(similarity: Callable[[np.ndarray, np.ndarray], np.ndarray], groups: np.ndarray, k: int) -> np.ndarray:
    """similarity(rows, members) -> (rows, members) float64, larger is nearer."""
    groups = np.asarray(groups)
    neighbours = np.full((len(groups), k), -1, np.int64)
    _, group_of = np.unique(groups, return_inverse=True)
    for members in np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1]):
        size, found = len(members), min(k, len(members) - 1)
        block = max(1, BLOCK_CELLS // max(size, 1))
        for start in range(0, size if found > 0 else 0, block):
            rows = np.arange(start, min(start + block, size))
            values = np.round(similarity(members[rows], members), 9)
            values[rows - start, rows] = -np.inf
            neighbours[members[rows], :found] = members[_largest(values, found)]
    return neighbours


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """(rows, k) columns of each row's k largest values, largest first, ties by column (argpartition alone breaks ties at random)."""
    threshold = np.partition(values, values.shape[1] - k, axis=1)[:, -k][:, None]
    row, column = np.nonzero(values >= threshold)
    order = np.lexsort((column, -values[row, column], row))
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    return column[place < k].reshape(len(values), k)

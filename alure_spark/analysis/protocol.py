"""How good is a user graph: do the items of a user's neighbours foretell the items that the user takes up later?

Why here: one pure numpy function evaluates the pipeline's own edges and every peer alike, in jobs/evaluate and in the benchmark,
so that a difference between two numbers is a difference between two graphs. Enters: who had what before the cut, who took up
what after it, and each user's neighbours. Leaves: Recall@k and NDCG@k per user; `metrics.paired_interval` says how certain a
difference of two is.

Protocol (fixed): score(item) = number of the user's neighbours that had it before the cut; ties by popularity, then by item
index; the user's own earlier items are removed; the first k are evaluated. Without a neighbour that is the order of popularity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

BLOCK_CELLS = 8_000_000  # scored (user, item) pairs held at once


class ListQuality(NamedTuple):
    """Per user, (U,) float64; NaN where the user has no later item to be found."""

    recall: np.ndarray
    ndcg: np.ndarray


def evaluate_neighbours(
    had: sparse.csr_matrix, later: sparse.csr_matrix, neighbours: np.ndarray, popularity: np.ndarray, k: int = 50
) -> ListQuality:
    """Recall@k and NDCG@k of every user.

    had, later (U, I) non-zero where the user had the item before / took it up after the cut (what the user had before is no
    later item, whatever `later` says); neighbours (U, n) int, rows of `had`, -1 where there is none; popularity (I,).
    Costs as many cells as the neighbours had items: it does not grow with U * I.
    """
    users, items = had.shape
    by_popularity = np.lexsort((np.arange(items), -np.asarray(popularity)))  # column j is now the j-th most popular item
    had, later = _binary(had)[:, by_popularity], _binary(later)[:, by_popularity]
    later = _binary(later - later.multiply(had))
    owned, wanted = np.diff(had.indptr), np.diff(later.indptr)

    discounts = 1 / np.log2(np.arange(min(k, items)) + 2)
    best = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(wanted, len(discounts))]
    hits, gain = np.zeros(users), np.zeros(users)
    row, column = np.nonzero(neighbours >= 0)
    linked = sparse.csr_matrix((np.ones(len(row), np.int64), (row, neighbours[row, column])), shape=(users, users))
    cells = np.cumsum(linked @ owned + owned + k)
    for block in np.split(np.arange(users), np.searchsorted(cells, np.arange(BLOCK_CELLS, cells[-1], BLOCK_CELLS)) if users else []):
        # Only the k most popular items that the user does not own can fill up a list: they are among the first k + owned.
        fill = _leading(np.minimum(k + owned[block], items), items)
        # Twice the count keeps the fill's 1 below any vote; among equal votes the fill's items are the more popular ones anyway.
        scores = (2 * (linked[block] @ had) + fill - (2 * neighbours.shape[1] + 2) * had[block]).tocsr()
        top = _first(scores, discounts)
        found = top.multiply(later[block]).tocsr()
        gain[block] = np.asarray(found.sum(axis=1)).ravel()
        hits[block] = np.diff(found.indptr)
    with np.errstate(invalid="ignore"):
        return ListQuality(hits / np.where(wanted, wanted, np.nan), gain / np.where(wanted, best, np.nan))


def _binary(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The pattern of the non-zeros as int64 ones (a copy)."""
    matrix = sparse.csr_matrix(matrix, dtype=np.int64, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    matrix.data[:] = 1
    return matrix


def _leading(lengths: np.ndarray, columns: int) -> sparse.csr_matrix:
    """Row u has ones in its first lengths[u] columns."""
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
    return sparse.csr_matrix((np.ones(indptr[-1], np.int64), indices, indptr), shape=(len(lengths), columns))


def _first(scores: sparse.csr_matrix, discounts: np.ndarray) -> sparse.csr_matrix:
    """Each row's best positive entries (score descending, column ascending), the j-th replaced by discounts[j]."""
    scores = scores.tocoo()
    positive = scores.data > 0
    row, column, score = scores.row[positive], scores.col[positive], scores.data[positive]
    order = np.lexsort((column, -score, row))
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)  # 0 is the best of its row
    kept = place < len(discounts)
    return sparse.csr_matrix((discounts[place[kept]], (row[kept], column[kept])), shape=scores.shape)

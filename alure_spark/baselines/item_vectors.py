"""Item vectors by factorisation, and user embeddings as their sums: SVD and item2vec, kept for good as the baselines to beat.

Enters: `ItemHistories`. Leaves: `ItemVectors`, from which any user is embedded (also one that the fit never saw):
embedding(u) = normalise(sum of the vectors of u's items). The idf weight is inside the vectors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from ..config import EmbeddingConfig, as_dict
from .histories import ItemHistories, pattern

POWER_ITERATIONS = 7  # the randomised range finder is then exact to the noise of the protocol


@dataclass(frozen=True)
class ItemVectors:
    items: np.ndarray  # (I,) int64 item hashes, ascending
    vectors: np.ndarray  # (I, d) float32, idf-weighted

    def model_id(self, config: EmbeddingConfig) -> str:
        """'svd-' or 'item2vec-' and 12 hex digits: a digest of the items, the vectors and the conf."""
        digest = hashlib.sha256(json.dumps(as_dict(config), sort_keys=True).encode())
        digest.update(self.items.astype("<i8").tobytes())
        digest.update(self.vectors.astype("<f4").tobytes())
        return f"{config.method}-{digest.hexdigest()[:12]}"


def inverse_document_frequency(had: sparse.csr_matrix) -> np.ndarray:
    """(I,) float64 log(users / users that had the item); 0 for an item that nobody or everybody had."""
    frequency = np.bincount(had.indices, minlength=had.shape[1])
    return np.log(had.shape[0] / np.where(frequency, frequency, had.shape[0]))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """The rows scaled to length 1, in their dtype; a row of zeros stays."""
    squares = (rows * rows).sum(axis=1, keepdims=True)
    return rows / np.sqrt(np.where(squares > 0, squares, 1))


def idf_rows(had: sparse.csr_matrix) -> sparse.csr_matrix:
    """The idf-weighted matrix with rows of length 1 (a row of zeros stays)."""
    weighted = had.multiply(inverse_document_frequency(had)).tocsr()
    squares = np.asarray(weighted.multiply(weighted).sum(axis=1)).reshape(-1, 1)
    return weighted.multiply(1 / np.sqrt(np.where(squares > 0, squares, 1))).tocsr()


def embed(indptr: np.ndarray, items: np.ndarray, model: ItemVectors) -> np.ndarray:
    """(U, d) float32 unit rows of the users with items[indptr[u]:indptr[u + 1]]; zeros for a user without a known item."""
    summed = pattern(indptr, items, model.items, np.float32) @ model.vectors
    return unit_rows(summed)


def fit_svd(histories: ItemHistories, dimension: int, seed: int) -> ItemVectors:
    """Right singular vectors of the idf-weighted user-item matrix with unit rows, times idf: embedding a user projects the row.

    Unit rows keep the heaviest buyers from owning the first directions; with raw rows 16 directions were worse on both sets of
    benchmarks/user_graph, 64 better on one and worse on the other. At most min(dimension, U, I) columns.
    """
    items = histories.vocabulary()
    had = histories.matrix(items)
    _, _, right = _svd(idf_rows(had), dimension, seed)
    return ItemVectors(items, (right.T * inverse_document_frequency(had)[:, None]).astype(np.float32))


def fit_item2vec(histories: ItemHistories, dimension: int, window: int, seed: int) -> ItemVectors:
    """Factorised positive pointwise mutual information of items near each other in a history: unit vectors, times idf.

    A user is thus the idf-weighted mean of directions (unit vectors were level or better on splits of the history alone).
    At most min(dimension, I) columns.
    """
    items = histories.vocabulary()
    had = histories.matrix(items)
    left, singular, _ = _svd(positive_pmi(co_occurrence(histories, items, window)), dimension, seed)
    directions = unit_rows(left * np.sqrt(singular))
    return ItemVectors(items, (directions * inverse_document_frequency(had)[:, None]).astype(np.float32))


@dataclass(frozen=True)
class ItemViews:
    """What factorisations know of the same items, without idf: where the user model starts."""

    items: np.ndarray  # (I,) int64 item hashes, ascending
    vectors: tuple[np.ndarray, ...]  # one per view, each (I, at most d) float32 with rows of mean length 1
    idf: np.ndarray  # (I,) float64
    users: np.ndarray  # (I,) int64 users that had the item


def item_views(histories: ItemHistories, views: Sequence[str], dimension: int, window: int, seed: int) -> ItemViews:
    """The views 'svd' and 'item2vec', as named, scaled so that rows have mean length 1.

    The columns of svd are weighted by the square root of their singular value, so that a direction that explains more counts
    more (the projection of fit_svd values all alike); with weights of the square root of idf that was better on splits of the
    history alone, on both sets of benchmarks/user_graph.
    """
    items = histories.vocabulary()
    had = histories.matrix(items)
    found = []
    for view in views:
        if view == "svd":
            _, singular, right = _svd(idf_rows(had), dimension, seed)
            rows = right.T * np.sqrt(singular)
        else:
            left, singular, _ = _svd(positive_pmi(co_occurrence(histories, items, window)), dimension, seed)
            rows = unit_rows(left * np.sqrt(singular))
        found.append((rows / (np.sqrt((rows**2).sum(axis=1)).mean() or 1)).astype(np.float32))
    users = np.bincount(had.indices, minlength=len(items))
    return ItemViews(items, tuple(found), inverse_document_frequency(had), users)


def co_occurrence(histories: ItemHistories, vocabulary: np.ndarray, window: int) -> sparse.csr_matrix:
    """(I, I) float64 symmetric: how often two items stand at most `window` places apart in one history."""
    item = np.searchsorted(vocabulary, histories.items)
    user = np.repeat(np.arange(len(histories.user_ids)), histories.counts)
    size = len(vocabulary)
    counts = sparse.csr_matrix((size, size), dtype=np.float64)
    for offset in range(1, window + 1):
        same = user[offset:] == user[:-offset]
        pair = (item[:-offset][same], item[offset:][same])
        counts = counts + sparse.csr_matrix((np.ones(same.sum()), pair), shape=(size, size))
    return (counts + counts.T).tocsr()


def positive_pmi(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """max(0, log(n_ij * n / (n_i * n_j))) where n_ij > 0."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    pairs = counts.tocoo()
    value = np.log(pairs.data * totals.sum() / (totals[pairs.row] * totals[pairs.col]))
    result = sparse.csr_matrix((np.maximum(value, 0), (pairs.row, pairs.col)), shape=counts.shape)
    result.eliminate_zeros()
    return result


def _svd(matrix: sparse.csr_matrix, dimension: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truncated SVD with a fixed sign convention (svd_flip), of at most min(matrix.shape) components."""
    rank = min(dimension, *matrix.shape)
    if rank == 0:
        return np.zeros((matrix.shape[0], 0)), np.zeros(0), np.zeros((0, matrix.shape[1]))
    left, singular, right = randomized_svd(matrix, rank, n_iter=POWER_ITERATIONS, random_state=seed)
    return left, singular, right

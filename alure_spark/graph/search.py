"""Nearest vectors by cosine: the arithmetic of the graph, on numpy arrays and faiss, without Spark (ALURE, section 3).

Every vector here has unit norm, so that cosine is a dot product. faiss finds the best k + SLACK in float32 as one matrix
product; these few are scored again in float64, rounded to 1e-6 and ordered by (-similarity, position). So the answer does
not depend on the shape of the block in which a pair of vectors met, except where similarities differ by less than 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import faiss
import numpy as np

from ..config import GraphConfig

SLACK = 8  # candidates beyond k that are scored again: float32 may swap neighbours that are this near
ROWS_AT_A_TIME = 2048  # expanded candidates are held for so many queries at a time
FIRST_LISTS = 3  # lists of a query from which the k-th best is guessed: with one, five times as many rows beat it
PRODUCTS_AT_A_TIME = 2**18  # numbers of a matrix product that are compared while they are in the cache
PENDING_PER_QUERY = 40  # rows that beat the k-th best, per query, before they are merged
ROWS_IN_CACHE = 256  # float64 products: eight times faster than 2048, whose gathered rows leave the cache

# Fitted to CPU seconds of the kernels, 20 k to 200 k vectors x 64, one core of a 2 vCPU AVX2 machine (see choose_method).
EXACT_RATE = 38e9  # multiply-adds per second of faiss.knn on a whole country
CENTROID_RATE = 2.5e9  # the same while choosing the nearest 50 of 400 centroids
LIST_RATE = 26e9  # the same inside lists, without
PROBE_SECONDS = 0.85e-6  # what a query costs per list, however short: its copy, its product of few columns, its share of the merge


class Neighbours(NamedTuple):
    """Flat pairs ordered by (row, -weight, position)."""

    row: np.ndarray  # (M,) index of the query
    position: np.ndarray  # (M,) index in the base
    weight: np.ndarray  # (M,) float64, rounded to 1e-6


def cluster_count(users: int, config: GraphConfig) -> int:
    """k1 of a country: config.k1, but no more than one cluster per users_per_cluster users, and at least 1."""
    return max(1, min(config.k1, users // config.users_per_cluster))


def choose_method(users: int, config: GraphConfig, dimension: int = 64) -> str:
    """'exact' or 'probed': the cheaper way to the neighbours of all n users of a country, unless config.search forces one.

    Seconds of one core, p = k1_probed lists of k1, d numbers:
        exact   n * n*d / EXACT_RATE
        probed  n * (k1*d / CENTROID_RATE + p * PROBE_SECONDS + n * p/k1 * d / LIST_RATE)
    A probed pair costs more than an exact one, since lists are small and each query enters p of them; so probing must skip
    most of the country before it pays. With p >= k1 it skips nothing: exact search with detours. Measured, microseconds per
    user, k1 = 400 and p = 50: exact 43 (20 k users), 69 (40 k), 100 (60 k), 314 (200 k); probed, with the choice of lists, 58, 59, 67, 113.
    So with the defaults probing pays above about 38 k users a country. Kernels only: the shuffle, where a query crosses
    once per block that it visits, moves the border up.
    """
    clusters = cluster_count(users, config)
    if config.search != "auto":
        return config.search
    exact = users * dimension / EXACT_RATE
    probed = clusters * dimension / CENTROID_RATE + config.k1_probed * PROBE_SECONDS
    probed += users * config.k1_probed / clusters * dimension / LIST_RATE
    return "exact" if exact <= probed else "probed"


def similarity(queries: np.ndarray, base: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Cosine of every query (Q, d) with its own candidates (Q, K): (Q, K) float64 rounded to 1e-6; -inf where position is -1."""
    result = np.empty(positions.shape)
    wide_queries, wide_base = queries.astype(np.float64), base.astype(np.float64)
    for start in range(0, len(queries), ROWS_IN_CACHE):
        rows = slice(start, start + ROWS_IN_CACHE)
        candidates = np.take(wide_base, positions[rows], axis=0, mode="clip")  # (q, K, d); -1 becomes 0
        # einsum sums every row by itself, in an order that depends on d only; a BLAS product would not promise that.
        result[rows] = np.einsum("qd,qkd->qk", wide_queries[rows], candidates)
    return np.where(positions < 0, -np.inf, np.round(result, 6) + 0.0)


def nearest(queries: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of base (N, d) for each query (Q, d) float32: similarity (Q, k) float64 and position (Q, k), best first.

    Ties go to the lower position; k is cut to N. Cost: Q*N*d multiply-adds and Q*(k + SLACK)*d in float64.
    """
    _, positions = faiss.knn(queries, base, min(k + SLACK, len(base)), metric=faiss.METRIC_INNER_PRODUCT)
    positions = np.sort(positions, axis=1)
    weights = similarity(queries, base, positions)
    best = np.argsort(-weights, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(weights, best, axis=1), np.take_along_axis(positions, best, axis=1)


def neighbours(
    queries: np.ndarray, query_ids: np.ndarray, base: np.ndarray, base_ids: np.ndarray, k: int,
    query_lists: np.ndarray | None = None, base_lists: np.ndarray | None = None,
) -> Neighbours:  # fmt: skip
    """The k nearest base rows of each query, itself (the same id) left out, inside the lists that the query probes.

    queries (Q, d) and base (N, d) float32; base_ids (N,) ascending, so that ties by position are ties by id;
    query_lists (Q, P) and base_lists (N,) int; without lists all of base is searched. Fewer than k rows where there are
    fewer. Equal vectors are searched once and counted as often as they are there, in the order of their ids: so a
    thousand users with the same embedding cannot push each other out of the candidates in an arbitrary order.
    """
    if query_lists is None or base_lists is None:
        query_lists, base_lists = np.zeros((len(queries), 1), np.int32), np.zeros(len(base), np.int32)
    distinct, members, starts, copies, lists = _distinct(base, base_lists)
    candidates = _search_lists(queries, query_lists, distinct, lists, k + 1 + SLACK)
    place = {user: position for position, user in enumerate(base_ids)}
    itself = np.array([place.get(user, -1) for user in query_ids], np.int64)
    copies = np.minimum(copies, k + 1)  # of equal vectors no more than the first k, and the query itself, can be needed
    parts = []
    for start in range(0, len(queries), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        weights = similarity(queries[rows], distinct, candidates[rows])
        part = _expand(candidates[rows], weights, members, starts, copies, itself[rows], k)
        parts.append(part._replace(row=part.row + start))
    return Neighbours(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _distinct(base: np.ndarray, lists: np.ndarray) -> tuple[np.ndarray, ...]:
    """Base without repetitions inside a list, ordered by (list, first position).

    distinct (U, d); members (N,), the positions of base, those of one distinct vector in a row; starts (U,) and copies (U,)
    into members; lists (U,).
    """
    keys = np.hstack([lists[:, None].astype(np.float32), base]).view(f"V{4 * (base.shape[1] + 1)}").ravel()
    _, first, inverse, copies = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    members, starts = np.argsort(inverse, kind="stable"), np.cumsum(copies) - copies
    order = np.lexsort((first, lists[first]))
    return base[first[order]], members, starts[order], copies[order], lists[first[order]]


def _search_lists(queries: np.ndarray, query_lists: np.ndarray, base: np.ndarray, lists: np.ndarray, k: int) -> np.ndarray:
    """Positions (Q, k) of the best rows of base, in float32 and no particular order among ties; -1 where there are fewer.

    `lists` is ascending; query_lists best come first (any order is right, this one is fast). List by list, since all queries that
    probe a list against all its rows is one matrix product, at ten times the rate of a scan per query:
    1. the first lists of each query, until they hold k rows: the k best, by a heap
    2. all other lists: only rows that beat the k-th so far, which few do; they join the k best now and then
    """
    k = min(k, len(base))
    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    sizes = np.bincount(lists, minlength=int(query_lists.max(initial=0)) + 1)
    rows = sizes[query_lists]
    first = (np.cumsum(rows, axis=1) - rows < k) | (np.cumsum(rows > 0, axis=1) <= FIRST_LISTS)
    for begin, end, asking in _asked(query_lists, first & (rows > 0), sizes):
        scores, found = faiss.knn(queries[asking], base[begin:end], min(k, end - begin), metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result_subset(asking, scores, found + begin)
    best.finalize()
    scores, positions = best.D, best.I

    pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    waiting = 0
    limit = _distance(scores[:, -1:])
    for begin, end, asking in _asked(query_lists, ~first & (rows > 0), sizes):
        step = max(1, PRODUCTS_AT_A_TIME // (end - begin))
        for start in range(0, len(asking), step):
            some = asking[start : start + step]
            distance = faiss.pairwise_distances(queries[some], base[begin:end])  # |q - b|^2 = 2 - 2 q.b of unit vectors
            beats = np.flatnonzero(distance < limit[some])
            if len(beats):
                row, place = np.divmod(beats, end - begin)
                pending.append((some[row], place + begin, 1 - distance.ravel()[beats] / 2))
                waiting += len(beats)
        if waiting > PENDING_PER_QUERY * len(queries):
            scores, positions = _best_of(scores, positions, pending)
            limit, pending, waiting = _distance(scores[:, -1:]), [], 0
    return _best_of(scores, positions, pending)[1]


def _distance(similarity: np.ndarray) -> np.ndarray:
    """Squared distance of unit vectors, float32; where there is no similarity yet (the lowest float), above every distance."""
    return np.minimum(2 - 2 * similarity.astype(np.float64), 5).astype(np.float32)


def _asked(query_lists: np.ndarray, wanted: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """(begin, end, queries that probe it) of every list that a wanted probe (Q, P) asks for; `sizes`: the rows of each list."""
    row, place = np.nonzero(wanted)
    probed = query_lists[row, place]
    order = np.argsort(probed, kind="stable")
    ends, asks = np.cumsum(sizes), np.cumsum(np.bincount(probed, minlength=len(sizes)))
    for number, asking in enumerate(np.split(row[order], asks[:-1])):
        if len(asking):
            yield int(ends[number] - sizes[number]), int(ends[number]), asking


def _best_of(
    scores: np.ndarray, positions: np.ndarray, more: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """The best of (Q, k) scores and positions, each row descending, and of further (rows, positions, scores)."""
    if not more:
        return scores, positions
    k = scores.shape[1]
    touched, compact = np.unique(np.concatenate([row for row, *_ in more]), return_inverse=True)
    row = np.concatenate([np.repeat(np.arange(len(touched)), k), compact])
    position = np.concatenate([positions[touched].ravel(), *(position for _, position, _ in more)])
    score = np.concatenate([scores[touched].ravel(), *(score for *_, score in more)])
    order = np.lexsort((-score, row))
    row, position, score = row[order], position[order], score[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < k
    scores, positions = scores.copy(), positions.copy()
    scores[touched[row[kept]], place[kept]] = score[kept]
    positions[touched[row[kept]], place[kept]] = position[kept]
    return scores, positions


def _expand(
    candidates: np.ndarray, weights: np.ndarray, members: np.ndarray, starts: np.ndarray, copies: np.ndarray, itself: np.ndarray, k: int
) -> Neighbours:
    """Candidates (Q, K) as rows of base instead of distinct vectors, without the query itself, the best k of each query."""
    flat = candidates.ravel()
    count = np.where(flat < 0, 0, copies[flat])  # (Q*K,)
    row = np.repeat(np.arange(flat.size) // candidates.shape[1], count)
    nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # 0, 1, .. within each distinct vector
    position = members[np.repeat(starts[flat], count) + nth]
    weight = np.repeat(weights.ravel(), count)
    other = position != itself[row]
    row, position, weight = row[other], position[other], weight[other]
    order = np.lexsort((position, -weight, row))
    row, position, weight = row[order], position[order], weight[order]
    first = np.arange(len(row)) - np.searchsorted(row, row) < k
    return Neighbours(row[first], position[first], weight[first])

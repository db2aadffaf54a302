"""Personalised PageRank by truncated push: the arithmetic, on numpy arrays and scipy, without Spark.

A walk starts at its source, ends with probability `restart` at every node that it comes to, and otherwise goes on along an edge in
proportion to its strength; at a node without edges it is lost. pagerank(source, v) is the probability that it ends at v. (Where
lost walks begin anew at the source, as in networkx, all of a source's numbers grow by one factor: the order is the same.)

Push: the shares of the walk that are still under way are moved one step at a time, all nodes of many sources in one sparse product;
a share below `least_share` is not moved on. What was not moved is known, so that the error is too:

    found(v) <= pagerank(v) <= found(v) + left,    left = sum of all shares that were not moved on

(Andersen, Chung, Lang: Local graph partitioning using PageRank vectors, 2006; here in whole steps and for directed graphs.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from ..config import PageRankConfig

SOURCES_AT_A_TIME = 128  # larger blocks leave the cache: 512 cost a third more
DECIMALS = 7  # float32 sums of shares are right to about this


class Ranks(NamedTuple):
    """Flat pairs ordered by (row, -weight, node)."""

    row: np.ndarray  # (M,) index of the source among the sources asked for
    node: np.ndarray  # (M,) int64
    weight: np.ndarray  # (M,) float64, rounded to 1e-7
    left: np.ndarray  # (S,) float64: no weight of that source is too low by more


def transitions(source: np.ndarray, target: np.ndarray, strength: np.ndarray, nodes: int) -> sparse.csr_matrix:
    """(nodes, nodes) float32 from E edges of positive strength: rows sum to 1, or to 0 where no edge leaves.

    Edges from a node to itself stay; several between the same two nodes count together.
    """
    matrix = sparse.csr_matrix((strength.astype(np.float64), (source, target)), shape=(nodes, nodes))
    matrix.sum_duplicates()
    total = np.asarray(matrix.sum(axis=1)).ravel()
    matrix.data /= np.repeat(total, np.diff(matrix.indptr))
    return matrix.astype(np.float32)


def personalised_pagerank(
    walk: sparse.csr_matrix, sources: np.ndarray, k: int, config: PageRankConfig, eligible: np.ndarray | None = None
) -> Ranks:
    """The k nodes with the highest PageRank of each source (S,) int, itself left out; ties go to the lower node.

    walk (N, N) from `transitions`; eligible (N,) bool: the nodes that may be an answer. Fewer than k where the walk reaches fewer.
    Cost per source: at most the edges of 1 / least_share nodes per step, however large the graph.
    """
    parts = []
    for start in range(0, len(sources), SOURCES_AT_A_TIME):
        some = np.asarray(sources[start : start + SOURCES_AT_A_TIME])
        found, left = _push(walk, some, config)
        row, node, weight = _best(found, some, k, eligible)
        parts.append(Ranks(row + start, node, weight, left))
    if not parts:
        return Ranks(np.empty(0, int), np.empty(0, int), np.empty(0), np.empty(0))
    return Ranks(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _push(walk: sparse.csr_matrix, sources: np.ndarray, config: PageRankConfig) -> tuple[sparse.csr_matrix, np.ndarray]:
    """(where walks were found to end (S, N), what was not moved on (S,))."""
    count, nodes = len(sources), walk.shape[0]
    go_on = np.float32(1 - config.restart)
    under_way = sparse.csr_matrix((np.ones(count, np.float32), sources, np.arange(count + 1)), shape=(count, nodes))
    seen, left = [under_way], np.zeros(count)
    for step in range(config.steps + 1):
        row = np.repeat(np.arange(count), np.diff(under_way.indptr))
        moves = under_way.data >= config.least_share if step < config.steps else np.zeros(len(row), bool)
        left += (1 - config.restart) * np.bincount(row[~moves], under_way.data[~moves], count)
        if not moves.any():
            break
        lengths = np.bincount(row[moves], minlength=count)
        moving = (go_on * under_way.data[moves], under_way.indices[moves], np.r_[0, np.cumsum(lengths)])
        under_way = sparse.csr_matrix(moving, shape=(count, nodes)) @ walk
        seen.append(under_way)
    # The sum over the steps as one product: scipy adds many sparse matrices one by one, sorting each time.
    order = np.arange(count * len(seen)).reshape(len(seen), count).T.ravel()
    shares = np.full(len(order), config.restart, np.float32)
    add = sparse.csr_matrix((shares, order, np.arange(count + 1) * len(seen)), shape=(count, len(order)))
    return (add @ sparse.vstack(seen, format="csr")).tocsr(), left


def _best(found: sparse.csr_matrix, sources: np.ndarray, k: int, eligible: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, node, weight) of the k best of each row, the row's own source and what is not eligible left out."""
    rows, nodes, weights = [], [], []
    for row, source in enumerate(sources):
        entries = slice(found.indptr[row], found.indptr[row + 1])
        node, weight = found.indices[entries].astype(np.int64), np.round(found.data[entries].astype(np.float64), DECIMALS)
        kept = (node != source) & (weight > 0)
        if eligible is not None:
            kept &= eligible[node]
        node, weight = node[kept], weight[kept]
        if len(weight) > k:
            high = weight >= np.partition(weight, len(weight) - k)[len(weight) - k]  # with all that tie with the k-th
            node, weight = node[high], weight[high]
        order = np.lexsort((node, -weight))[:k]
        rows.append(np.full(len(order), row))
        nodes.append(node[order])
        weights.append(weight[order])
    return np.concatenate(rows), np.concatenate(nodes), np.concatenate(weights)

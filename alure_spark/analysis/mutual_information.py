"""How much a fact about a history says of the response (Pan et al., section 7.1, equations 6 and 7).

Enters: for n impressions of one target category, facts (did a behaviour of that category happen at that place, or so long before?) and the
response, all 0 or 1; or, where there are many rows, what was counted of them. Leaves: bits, corrected for the bias of counting
(Miller 1955), each beside the interval in which it would lie if fact and response had nothing to do with each other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from ..errors import DataError

PERMUTATIONS = 200
WINDOW = 12  # standard deviations of the count that shuffling gives: beyond them lies less than 1e-9 of it
DECIMALS = 12  # two tables of equal information differ by rounding


class Information(NamedTuple):
    """Of F facts, (F,) float64 each, in bits."""

    bits: np.ndarray  # may be below 0 by the correction
    low: np.ndarray  # 2.5 % and 97.5 % of what shuffled responses give
    high: np.ndarray


def mutual_information(facts: np.ndarray, response: np.ndarray, seed: int = 7, permutations: int = PERMUTATIONS) -> Information:
    """facts (n, F) bool; response (n,) 0 or 1. Raises DataError on other shapes or values, and without a row."""
    present, responded = np.asarray(facts), np.asarray(response)
    if present.ndim != 2 or responded.shape != present.shape[:1] or not len(responded):
        raise DataError(f"facts are {present.shape} and responses {responded.shape}; allowed: (n, F) and (n,), n at least 1")
    if not (np.isin(present, (0, 1)).all() and np.isin(responded, (0, 1)).all()):
        raise DataError("a fact or a response is neither 0 nor 1")
    present, responded = present.astype(np.float64), responded.astype(np.float64)
    rows, positive, with_fact = len(responded), responded.sum(), present.sum(axis=0)
    random = np.random.default_rng(seed)
    shuffled = np.stack([random.permutation(responded) for _ in range(permutations)]) if permutations else np.zeros((0, rows))
    bits = _bits(responded @ present, with_fact, positive, rows)
    if not permutations:
        return Information(bits, np.full_like(bits, np.nan), np.full_like(bits, np.nan))
    null = _bits(shuffled @ present, with_fact, positive, rows)
    return Information(bits, *np.quantile(null, (0.025, 0.975), axis=0))


def information_of_counts(both: np.ndarray, with_fact: np.ndarray, positive: int, rows: int, level: float = 0.05) -> Information:
    """Of F facts that with_fact (F,) of the rows have, both (F,) of them with the response, which `positive` rows have.

    The interval is that of all permutations and not of a few: shuffling makes `both` hypergeometric. With chance alone a fact lies above it
    in at most level / 2 of the cases. Raises DataError on counts that no rows can have.
    """
    of_both, of_fact = np.asarray(both, np.int64), np.asarray(with_fact, np.int64)
    least, most = np.maximum(0, of_fact + positive - rows), np.minimum(of_fact, positive)
    if rows < 1 or of_both.shape != of_fact.shape or not ((least <= of_both) & (of_both <= most)).all():
        raise DataError(f"of {rows} rows {positive} cannot have the response where a fact and both are counted as given")
    bits = _bits(of_both.astype(np.float64), of_fact.astype(np.float64), float(positive), rows)
    ends = np.array([_null_interval(int(one), positive, rows, level) for one in of_fact]).reshape(-1, 2)
    return Information(bits.round(DECIMALS), ends[:, 0], ends[:, 1])


def _null_interval(with_fact: int, positive: int, rows: int, level: float) -> tuple[float, float]:
    mean, share = with_fact * positive / rows, (rows - with_fact) / max(1, rows - 1)
    reach = WINDOW * (1 + math.sqrt(mean * (1 - positive / rows) * share))
    low, high = max(0, with_fact + positive - rows, int(mean - reach)), min(with_fact, positive, int(mean + reach) + 1)
    both = np.arange(low, high + 1)
    bits = _bits(both.astype(np.float64), np.full(len(both), float(with_fact)), float(positive), rows).round(DECIMALS)
    order = np.argsort(bits, kind="stable")
    below = np.cumsum(stats.hypergeom.pmf(both, rows, positive, with_fact)[order])
    places = np.searchsorted(below, [level / 2, 1 - level / 2 - 1e-12]).clip(max=len(both) - 1)
    # Tables of equal information count as one: the upper end is the largest of its like, which rounding has made equal.
    return float(bits[order][places[0]]), float(bits[order][places[1]])


def _bits(both: np.ndarray, with_fact: np.ndarray, positive: float, rows: int) -> np.ndarray:
    """Miller-Madow corrected, of tables of two by two: both (..., F) rows that have the fact and the response."""
    cells = [both, with_fact - both, positive - both, rows - positive - with_fact + both]
    margins = [(with_fact, positive), (with_fact, rows - positive), (rows - with_fact, positive), (rows - with_fact, rows - positive)]
    bits = np.zeros(np.shape(both))
    for cell, (one, other) in zip(cells, margins, strict=True):
        there = cell > 0
        expected = np.where(there, one * other, 1)
        bits += np.where(there, cell / rows * np.log2(np.where(there, cell, 1) * rows / expected), 0)
    seen = [sum((np.asarray(cell) > 0).astype(np.float64) for cell in cells)]
    of_fact = (with_fact > 0).astype(np.float64) + (with_fact < rows)
    of_response = float(positive > 0) + float(positive < rows)
    return bits + (of_fact + of_response - seen[0] - 1) / (2 * rows * np.log(2))

"""How the numbers of one trained model are turned into the space of another (orthogonal Procrustes; Schoenemann, 1966).

Why here: the job that makes representations fits, whoever reads them applies, and the benchmark of drift does both. Enters: vectors of the
same users or ads by both models, row by row. Leaves: an `Alignment`, numbers that JSON or a table can hold.

Two trainings of one model differ by more than the order of their numbers, but inner products and distances mean the same in both. A
rotation (with or without a reflection) and a shift keep them, and nothing else is fitted: a free matrix could bend the vectors of few rows
as it likes. What a rotation does not explain is the `residual`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes

from .errors import DataError


@dataclass(frozen=True)
class Alignment:
    """turned = x @ rotation + shift."""

    rotation: np.ndarray  # (d, d) float64, orthogonal
    shift: np.ndarray  # (d,) float64
    rows: int  # that it was fitted on
    # Root of the squared errors over the squared deviations from the mean, of rows that the fit had not seen: 0 is a rotation and nothing
    # else, 1 no better than the mean of the space for everybody.
    residual: float

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """(n, d) float32 of vectors (n, d) in the other space."""
        result: np.ndarray = (np.asarray(vectors, np.float64) @ self.rotation + self.shift).astype(np.float32)
        return result


def fit_alignment(mine: np.ndarray, theirs: np.ndarray, what: str = "rows") -> Alignment:
    """The rotation and shift that bring mine (n, d) nearest to theirs (n, d), row by row, in squares. O(n d^2 + d^3).

    The residual is of two fits, each on every other row and measured on the rest: give the rows in an order that says nothing. Raises
    DataError, which names `what` the rows are, where both are not as wide, a number is not finite, or there are fewer rows than numbers:
    a rotation of d directions is not decided by fewer.
    """
    mine, theirs = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    if mine.ndim != 2 or mine.shape != theirs.shape:
        raise DataError(f"{what}: vectors {mine.shape} of one model cannot be turned into the space of {theirs.shape} of the other")
    rows, numbers = mine.shape
    if rows < numbers:
        raise DataError(f"{what}: {rows} are common to both models; to turn {numbers} numbers takes at least {numbers}")
    if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
        raise DataError(f"{what}: a number of the vectors to be aligned is not finite")
    spread = np.sqrt(((theirs - theirs.mean(axis=0)) ** 2).sum())
    halves = slice(0, None, 2), slice(1, None, 2)
    missed = 0.0
    for learnt, rest in (halves, halves[::-1]):
        rotation, shift = _motion(mine[learnt], theirs[learnt])
        missed += ((mine[rest] @ rotation + shift - theirs[rest]) ** 2).sum()
    return Alignment(*_motion(mine, theirs), rows, float(np.sqrt(missed) / spread) if spread > 0 else 0.0)


def _motion(mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rotation, shift): first about the means, then from mean to mean."""
    center, goal = mine.mean(axis=0), theirs.mean(axis=0)
    rotation, _ = orthogonal_procrustes(mine - center, theirs - goal)
    return rotation, goal - center @ rotation

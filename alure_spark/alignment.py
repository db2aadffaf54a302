"""How the numbers of one trained model are turned into the space of another.

Why here: the job that makes representations fits, whoever reads them applies, and the benchmark of drift does both. Enters: vectors of the
same users or ads by both models, row by row. Leaves: an `Alignment`, numbers that JSON or a table can hold.

rotation  with or without a reflection (orthogonal Procrustes; Schoenemann, 1966): inner products and distances keep their meaning. Two
          trainings differ by nothing else where only these count in them, as in the user embedding.
linear    any matrix (ridge regression): also for layers behind a non-linearity. It makes smaller what it cannot foretell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes

from .errors import DataError


@dataclass(frozen=True)
class Alignment:
    """turned = x @ matrix + shift."""

    matrix: np.ndarray  # (d, d) float64
    shift: np.ndarray  # (d,) float64
    rows: int  # that it was fitted on
    # Root of the squared errors over the squared deviations from the mean, of rows that the fit had not seen: 0 where it explains all, 1
    # where it is no better than the mean of the space for everybody.
    residual: float

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """(n, d) float32 of vectors (n, d) in the other space."""
        result: np.ndarray = (np.asarray(vectors, np.float64) @ self.matrix + self.shift).astype(np.float32)
        return result


def fit_alignment(mine: np.ndarray, theirs: np.ndarray, what: str = "rows", kind: str = "rotation") -> Alignment:
    """The matrix and shift that bring mine (n, d) nearest to theirs (n, d), row by row, in squares. O(n d^2 + d^3).

    kind: one of FITS. The residual is of two fits, each on every other row and measured on the rest: give the rows in an order that says
    nothing. Raises DataError, which names `what` the rows are, where both are not as wide, a number is not finite, or there are fewer
    rows than numbers: how d directions turn is not decided by fewer.
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
        matrix, shift = _fitted(mine[learnt], theirs[learnt], kind)
        missed += ((mine[rest] @ matrix + shift - theirs[rest]) ** 2).sum()
    return Alignment(*_fitted(mine, theirs, kind), rows, float(np.sqrt(missed) / spread) if spread > 0 else 0.0)


def _fitted(mine: np.ndarray, theirs: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(matrix, shift): first about the means, then from mean to mean."""
    center, goal = mine.mean(axis=0), theirs.mean(axis=0)
    matrix = FITS[kind](mine - center, theirs - goal)
    return matrix, goal - center @ matrix


def _rotation(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    rotation: np.ndarray = orthogonal_procrustes(mine, theirs)[0]
    return rotation


def _linear(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """As if d further rows, as long as these are on average, said that nothing can be foretold."""
    numbers = mine.shape[1]
    prior = np.eye(numbers) * (mine**2).mean() * numbers
    matrix: np.ndarray = np.linalg.solve(mine.T @ mine + prior, mine.T @ theirs) if prior.any() else np.eye(numbers)
    return matrix


FITS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"rotation": _rotation, "linear": _linear}

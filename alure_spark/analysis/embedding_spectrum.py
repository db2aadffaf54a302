"""Do the rows of a table use its dimensions? Singular values and information abundance (Pan et al., section 7.2; Guo et al. 2023).

Enters: the rows of one field, as they are: not centred, not normalised, for what the interactions see is these rows. Leaves: numbers.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError


def singular_values(rows: np.ndarray) -> np.ndarray:
    """(min(n, K),) float64, descending, of rows (n, K). Raises DataError where there is no row, or a number is not finite."""
    matrix = np.asarray(rows, np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise DataError(f"rows of an embedding table are {np.shape(rows)}; allowed: (n, K), both at least 1")
    if not np.isfinite(matrix).all():
        raise DataError("a number of an embedding table is NaN or infinite")
    if matrix.shape[0] > matrix.shape[1]:  # of the few columns: a tall table costs n K^2 and no memory of its own
        return np.sqrt(np.clip(np.linalg.eigvalsh(matrix.T @ matrix)[::-1], 0, None))
    return np.linalg.svd(matrix, compute_uv=False)


def information_abundance(rows: np.ndarray) -> float:
    """Sum of the singular values / the largest one: 1 where all rows lie on a line, min(n, K) where no direction is preferred.

    0 where all rows are 0.
    """
    values = singular_values(rows)
    return float(values.sum() / values[0]) if values[0] > 0 else 0.0

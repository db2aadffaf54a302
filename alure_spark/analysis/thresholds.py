"""Where does active begin? The threshold of |corr| at which a model's normalized entropy differs most between the segments.

DynamiX, section 4.1: epsilon "was selected to maximize the NE gains between two user-segments", on impressions that the model has not
seen. Every candidate leaves at least a tenth of the impressions on either side; the curve says how much its choice matters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from ..metrics import Interval, cluster_bootstrap, normalized_entropy

LEAST_SHARE, CANDIDATES = 0.1, 40


class Threshold(NamedTuple):
    """The best candidate, and all of them."""

    epsilon: float
    gap: float  # NE of the passive minus NE of the active
    interval: Interval  # of that gap at this epsilon, 95 % over users; the search over candidates is not in it
    curve: pd.DataFrame  # epsilon, active_share, ne_active, ne_passive, gap


def ne_gap(size: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, users: np.ndarray) -> Threshold:
    """size (M,): |corr| of the user at each impression, 0 where unknown; labels, probabilities, weights, users (M,).

    Active: size above epsilon (equation 9). Raises DataError where no candidate leaves both labels on both sides.
    """
    candidates = np.unique(np.quantile(size, np.linspace(LEAST_SHARE, 1 - LEAST_SHARE, CANDIDATES), method="lower"))
    rows = []
    for epsilon in candidates:
        active = size > epsilon
        share = float(weights[active].sum() / weights.sum())
        if not LEAST_SHARE <= share <= 1 - LEAST_SHARE:
            continue
        try:
            of_active, of_passive = (normalized_entropy(labels, probabilities, weights * part) for part in (active, ~active))
        except DataError:  # one class only on a side
            continue
        rows.append((float(epsilon), share, of_active, of_passive, of_passive - of_active))
    if not rows:
        raise DataError("no threshold leaves a tenth of the impressions, with both labels, on either side: evaluate on more days or users")
    curve = pd.DataFrame(rows, columns=["epsilon", "active_share", "ne_active", "ne_passive", "gap"])
    best = curve.loc[curve["gap"].abs().idxmax()]
    active = size > best["epsilon"]

    def gap(drawn: np.ndarray) -> float:
        of_active, of_passive = (normalized_entropy(labels, probabilities, weights * part * drawn) for part in (active, ~active))
        return of_passive - of_active

    return Threshold(float(best["epsilon"]), float(best["gap"]), cluster_bootstrap(gap, users, 200), curve)

"""The arithmetic of DynamiX on running sums: the correlation of dwell and conversion, the logistic law, segments. No Spark.

One function for batch and request time: jobs/correlate_dwell calls it for a table, a server for one user's sums after `Sums.add`.
Log dwell is the natural logarithm of milliseconds. Equations are those of the paper, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.special import expit

from ..config import DynamixConfig

MICRO = 1e6  # sums are whole millionths: the same in any order of adding


def in_micro(values: np.ndarray) -> np.ndarray:
    """Whole millionths, int64."""
    return np.floor(values * MICRO + 0.5).astype(np.int64)


@dataclass(frozen=True)
class Sums:
    """Running sums of N users (int64 arrays of (N,)): impressions with C = 1 and C = 0, their log dwell and its square in millionths."""

    n_1: np.ndarray
    n_0: np.ndarray
    sum_1: np.ndarray
    sum_0: np.ndarray
    square_1: np.ndarray
    square_0: np.ndarray

    def add(self, user: np.ndarray, dwell_ms: np.ndarray, converted: np.ndarray) -> Sums:
        """The sums with further impressions: user (M,) places in the sums, dwell_ms (M,) above 0, converted (M,) bool (C, equation 1)."""
        log = np.log(dwell_ms)
        values = {"n": np.ones(len(log), np.int64), "sum": in_micro(log), "square": in_micro(log * log)}
        more = {}
        for name, value in values.items():
            for kind, chosen in (("1", converted), ("0", ~converted)):
                added = np.zeros(len(self.n_1), np.int64)
                np.add.at(added, user[chosen], value[chosen])
                more[f"{name}_{kind}"] = getattr(self, f"{name}_{kind}") + added
        return Sums(**more)


@dataclass(frozen=True)
class Population:
    """What is known of all users together: what a user with few impressions is drawn towards."""

    mean: float  # of the users' corr
    variance_between: float  # of the users' true corr
    variance_within: float  # of log dwell, within user and class


@dataclass(frozen=True)
class Correlations:
    """(N,) float64; NaN where a user has impressions of one class only (or too few for a variance)."""

    mean_1: np.ndarray
    mean_0: np.ndarray
    corr: np.ndarray  # equation 8: mean_1 - mean_0, a difference of means, not bounded by 1
    w: np.ndarray  # equation 7
    b: np.ndarray
    std_error: np.ndarray  # of corr

    def conversion_probability(self, dwell_ms: np.ndarray) -> np.ndarray:
        """p(C = 1 | log D) = sigmoid(w log D + b). The paper's (6) has -w, which contradicts its (7): there w > 0 where dwell rises."""
        return expit(self.w * np.log(dwell_ms) + self.b)


def correlate(sums: Sums, population: Population | None = None) -> Correlations:
    """Equations (2) to (8) for each user, by maximum likelihood under one variance for both classes.

        S = pooled variance of log D within the classes, n_1 + n_0 - 2 degrees of freedom
        w = corr / S,   b = logit(n_1 / (n_1 + n_0)) - (mean_1^2 - mean_0^2) / (2 S),   std_error = sqrt(S (1 / n_1 + 1 / n_0))

    population: S becomes that of all users, and corr its mean under corr ~ N(mean, variance_between) (empirical Bayes); std_error is
    that of the posterior. means stay as observed; w and b follow from the drawn corr, spread evenly about the observed middle.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_1, mean_0 = sums.sum_1 / MICRO / sums.n_1, sums.sum_0 / MICRO / sums.n_0
        both = (sums.n_1 > 0) & (sums.n_0 > 0)
        corr = np.where(both, mean_1 - mean_0, np.nan)
        within = _within(sums, mean_1, mean_0)
        freedom = sums.n_1 + sums.n_0 - 2
        variance: np.ndarray = np.where(both & (freedom > 0), within / freedom, np.nan)
        if population is not None:
            variance = np.where(both, population.variance_within, np.nan)
        error = variance * (1 / sums.n_1 + 1 / sums.n_0)
        middle = (mean_1 + mean_0) / 2
        if population is not None:
            weight: np.ndarray = population.variance_between / (population.variance_between + error)
            corr = np.where(both, population.mean + weight * (corr - population.mean), np.nan)
            error = weight * error
        w = corr / variance
        b = np.log(sums.n_1 / sums.n_0) - w * middle
    return Correlations(mean_1, mean_0, corr, w, np.where(both, b, np.nan), np.sqrt(error))


def population_of(sums: Sums) -> Population | None:
    """The common law of users (see common_law)."""
    both = (sums.n_1 > 0) & (sums.n_0 > 0)
    some = Sums(*(getattr(sums, one.name)[both] for one in fields(sums)))
    mean_1, mean_0 = some.sum_1 / MICRO / some.n_1, some.sum_0 / MICRO / some.n_0
    corr, size = mean_1 - mean_0, 1 / (1 / some.n_1 + 1 / some.n_0)
    within, freedom = _within(some, mean_1, mean_0).sum(), (some.n_1 + some.n_0 - 2).sum()
    moments = (float((size**power * corr**order).sum()) for power, order in ((1, 0), (2, 0), (1, 1), (1, 2)))
    return common_law(len(corr), float(within), int(freedom), *moments)


def common_law(users: int, within: float, freedom: int, q: float, qq: float, qc: float, qcc: float) -> Population | None:
    """What users have in common, by moments (DerSimonian and Laird, 1986), from sums over the users with impressions of both classes.

    within: sums of squares about the class means, with so many degrees of freedom; q, qq, qc, qcc: sums of q, q^2, q corr, q corr^2 with
    q = 1 / (1 / n_1 + 1 / n_0). None with fewer than two users or without variance.
    """
    if users < 2 or freedom <= 0 or within <= 0:
        return None
    variance, mean = within / freedom, qc / q
    spread = (qcc - q * mean * mean) / variance
    scale = (q - qq / q) / variance
    return Population(mean, max(0.0, (spread - (users - 1)) / scale), variance)


def _within(sums: Sums, mean_1: np.ndarray, mean_0: np.ndarray) -> np.ndarray:
    """Sum of squares of log dwell about the means of the classes; an empty class adds nothing."""
    parts = [
        np.where(n > 0, square / MICRO - n * mean**2, 0.0)
        for n, square, mean in ((sums.n_1, sums.square_1, mean_1), (sums.n_0, sums.square_0, mean_0))
    ]
    return np.maximum(0.0, parts[0] + parts[1])


def thresholds_of(corr: np.ndarray, impressions: np.ndarray, config: DynamixConfig) -> tuple[float, ...]:
    """Where levels begin: those given, or the epsilon above which |corr| are users with at least active_share of the impressions.

    Users of equal |corr| are on one side. A share that the users with a corr do not have between them makes all of them active.
    """
    if config.threshold == "given":
        return config.thresholds
    known = np.flatnonzero(~np.isnan(corr))
    size, which = np.unique(np.abs(corr[known]), return_inverse=True)
    above = np.cumsum(np.bincount(which, impressions[known], len(size))[::-1])[::-1]  # impressions of users at or above each |corr|
    enough = np.flatnonzero(above >= config.active_share * impressions.sum())
    last = enough[-1] if len(enough) else 0  # the largest |corr| that must still be active
    return (float(size[last - 1]) if last > 0 else 0.0,)


def levels(corr: np.ndarray, thresholds: tuple[float, ...]) -> np.ndarray:
    """(N,) int: 0 where |corr| <= the first threshold (9) or is unknown, n where it is above the n-th."""
    return np.searchsorted(np.array(thresholds), np.where(np.isnan(corr), 0.0, np.abs(corr)), side="left")

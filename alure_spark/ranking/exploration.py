"""How unsure the ranking model is: a Gaussian process over what the last layer of a task's tower reads (Pan et al., sections 6.4, A.1).

Enters: hidden vectors of impressions, the model's logits, responses. Leaves: mean and variance of the logit of any impression, and draws
of it for Thompson sampling (5).

The function f of (8) has the model's own logit as its mean before data and an RBF kernel over hidden vectors. Random Fourier features make
it linear, f(x) = logit(x) + phi(x) . w with w ~ N(0, 1), so that what is known of it are a mean and a precision matrix of w: they take in
new impressions at any time, in memory that does not grow with their number. The likelihood is Bernoulli; Laplace's approximation around
the most probable w adds p (1 - p) phi phi^T per impression to the precision. An ad that is seen more is less uncertain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import DataError, TrainingError

PASSES = 50  # over the impressions: Newton's method needs some five
PRECISE = 1e-6  # nats: when the next step would lower the loss by less, the mean is found
KEYS = ("frequencies", "scale", "mean", "precision")  # of a posterior as it is saved


@dataclass(frozen=True)
class Observed:
    """n impressions and what came of them."""

    hidden: Tensor  # (n, width): the input of the tower's last layer
    logits: Tensor  # (n,): of the model, calibrated
    labels: Tensor  # (n,) 0 or 1
    weights: Tensor  # (n,)


Observations = Callable[[], Iterable[Observed]]  # the same impressions whenever it is called


@dataclass(frozen=True)
class RandomFeatures:
    """phi with phi(a) . phi(b) about variance * exp(-|a - b|^2 / (2 length^2)), exactly so for a = b (Rahimi and Recht, 2007)."""

    frequencies: Tensor  # (width, features / 2) float64
    scale: float  # standard deviation of the logit before data

    @classmethod
    def drawn(cls, width: int, features: int, length: float, variance: float, seed: int) -> RandomFeatures:
        """width: of hidden vectors; features: an even number of them; length: the kernel's length scale, in the units of hidden vectors."""
        drawn = np.random.default_rng(seed).normal(size=(width, features // 2)) / length
        return cls(torch.from_numpy(drawn), variance**0.5)

    def __len__(self) -> int:
        return 2 * self.frequencies.shape[1]

    def __call__(self, hidden: Tensor) -> Tensor:
        """(n, features) float64: hidden (n, width). Raises DataError on another width than they were drawn for."""
        if hidden.shape[1] != len(self.frequencies):
            raise DataError(f"hidden vectors have {hidden.shape[1]} numbers, but the posterior was fitted on {len(self.frequencies)}")
        angles = hidden.double() @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1) * (self.scale / self.frequencies.shape[1] ** 0.5)


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is known of one task's f: w is about N(mean, precision^-1)."""

    features: RandomFeatures
    mean: Tensor  # (features,) float64
    precision: Tensor  # (features, features) float64

    @classmethod
    def before_data(cls, features: RandomFeatures) -> Posterior:
        count = len(features)
        return cls(features, torch.zeros(count, dtype=torch.float64), torch.eye(count, dtype=torch.float64))

    @cached_property
    def factor(self) -> Tensor:
        """(features, features) F with F F^T = precision^-1."""
        lower = torch.linalg.cholesky(self.precision)
        return torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False).T.contiguous()

    def at(self, hidden: Tensor, logits: Tensor) -> Beliefs:
        """What is believed of n impressions: hidden (n, width), logits (n,) of the model, calibrated."""
        features = self.features(hidden)
        return Beliefs(logits.double() + features @ self.mean, features @ self.factor)

    def updated(self, observations: Observations) -> Posterior:
        """The posterior after further impressions: this one is what was known before them.

        Newton's method on minus the log posterior, a pass over the impressions per step, and one more per step that went too far. Raises
        DataError on a number that is not finite, TrainingError where it does not converge.
        """
        best, value, precision, step = self.mean, float("inf"), self.precision, torch.zeros_like(self.mean)
        for _ in range(PASSES):
            found = self._loss(observations, best + step)
            if found.value > value + PRECISE:  # beyond the bottom: go half as far
                step = step / 2
                continue
            best, value, precision = best + step, found.value, found.precision
            step = torch.cholesky_solve(-found.gradient[:, None], torch.linalg.cholesky(precision))[:, 0]
            if -float(found.gradient @ step) / 2 <= PRECISE:
                return Posterior(self.features, best, precision)
        raise TrainingError(
            f"the posterior of ranking.exploration did not converge in {PASSES} passes: lower ranking.exploration.prior_variance"
        )

    def _loss(self, observations: Observations, mean: Tensor) -> _Loss:
        """Minus the log of the posterior density of w = mean but for a constant, and its derivatives."""
        away = mean - self.mean
        gradient, precision = self.precision @ away, self.precision.clone()
        value = float(away @ gradient) / 2
        for one in observations():
            features = self.features(one.hidden)
            logits = one.logits.double() + features @ mean
            labels, weights = one.labels.double(), one.weights.double()
            p = torch.sigmoid(logits)
            value += float(F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum"))
            gradient = gradient + features.T @ (weights * (p - labels))
            precision.addmm_(features.T, features * (weights * p * (1 - p))[:, None])
        if not np.isfinite(value):
            raise DataError("a hidden vector, a logit, a label or a weight of ranking.exploration is not finite")
        return _Loss(value, gradient, precision)

    def state(self) -> dict[str, Tensor]:
        """As it is saved: KEYS."""
        scale = torch.tensor(self.features.scale, dtype=torch.float64)
        return {"frequencies": self.features.frequencies, "scale": scale, "mean": self.mean, "precision": self.precision}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Posterior:
        """What `state` gave. Raises KeyError where something is missing."""
        frequencies, scale, mean, precision = (state[key] for key in KEYS)
        return cls(RandomFeatures(frequencies, float(scale)), mean, precision)


@dataclass(frozen=True)
class _Loss:
    value: float  # nats
    gradient: Tensor  # (features,)
    precision: Tensor  # (features, features)


@dataclass(frozen=True)
class Beliefs:
    """The normal distributions of the logits of n impressions, which depend on each other (8)."""

    mean: Tensor  # (n,) float64
    roots: Tensor  # (n, features) float64: roots roots^T is the covariance

    @property
    def variance(self) -> Tensor:
        """(n,)."""
        return self.roots.square().sum(dim=1)

    def drawn(self, requests: Sequence[str], seed: int) -> Tensor:
        """(n,) float64 logits of (5): the impressions of one request are scored by one draw of the whole function.

        requests: (n,) what names the request of each impression. A draw is a function of the request and the seed alone: it comes out the
        same in whatever batch and order, and at any time.
        """
        rows: dict[str, list[int]] = {}
        for row, request in enumerate(requests):
            rows.setdefault(request, []).append(row)
        result = self.mean.clone()
        for request, places in rows.items():
            result[places] += self.roots[places] @ normals(request, seed, self.roots.shape[1])
        return result


def normals(request: str, seed: int, count: int) -> Tensor:
    """(count,) float64 standard normal numbers of a request."""
    key = hashlib.blake2b(f"{seed}\n{request}".encode(), digest_size=16).digest()
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).standard_normal(count))


def expected_logits(mean: Tensor, variance: Tensor) -> Tensor:
    """(n,) logits of about the expected probabilities, E sigmoid(f) for f ~ N(mean, variance) (MacKay, 1992)."""
    return mean / (1 + torch.pi / 8 * variance).sqrt()


def median_distance(hidden: Tensor) -> float:
    """Between two rows of (n, width), over all pairs that differ: a length at which a kernel tells rows apart. 1 where none differs."""
    distances = torch.pdist(hidden.double())
    apart = distances[distances > 0]
    return float(apart.median()) if len(apart) else 1.0

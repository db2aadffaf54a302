"""What may choose the ad of a request: by expected value, by a draw, by an upper bound, at random now and then.

All of them learn from what they showed, once a day. Those on a posterior share it (ranking/exploration.py) and differ in how they choose;
LinUCB is as Li et al. (2010) have it, on the hidden vector of the same network, its probability and a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from alure_spark.ranking.exploration import Observed, Posterior, normals


@dataclass(frozen=True)
class Contexts:
    """What may be shown to whom, as a trained network has it: C rows."""

    hidden: torch.Tensor  # (C, width)
    logits: torch.Tensor  # (C,) calibrated
    shown: np.ndarray  # (C,) float64: impressions before the first day
    clicked: np.ndarray  # (C,) float64 of these

    def observed(self, shown: np.ndarray, clicked: np.ndarray) -> Observed:
        """What was shown and clicked, (C,) each, as a click and a no-click per row with the weights of their numbers."""
        rows = torch.from_numpy(np.flatnonzero(shown))
        weights = torch.from_numpy(np.r_[clicked[rows], (shown - clicked)[rows]])
        labels = torch.cat([torch.ones(len(rows)), torch.zeros(len(rows))])
        return Observed(self.hidden[rows].repeat(2, 1), self.logits[rows].repeat(2), labels, weights)


class Policy(Protocol):
    """Chooses for the requests of a day, and learns at its end."""

    def choose(self, rows: np.ndarray, requests: Sequence[str]) -> np.ndarray:
        """(R,) for each request of one group of users the place among rows, the contexts of the ads that may be shown to it."""

    def learn(self, shown: np.ndarray, clicked: np.ndarray) -> None:
        """The day's impressions and clicks, (C,) each."""


def _highest(scores: np.ndarray, requests: Sequence[str]) -> np.ndarray:
    """The same place for every request."""
    return np.full(len(requests), int(np.argmax(scores)))


class OnPosterior:
    """By the mean of the logit, and what `bonus` adds."""

    def __init__(self, contexts: Contexts, posterior: Posterior, seed: int) -> None:
        self.contexts, self.posterior, self.seed = contexts, posterior, seed
        self._believe()

    def _believe(self) -> None:
        self.beliefs = self.posterior.at(self.contexts.hidden, self.contexts.logits)
        self.mean, self.deviation = self.beliefs.mean.numpy(), self.beliefs.variance.sqrt().numpy()

    def choose(self, rows: np.ndarray, requests: Sequence[str]) -> np.ndarray:
        return _highest(self.mean[rows], requests)

    def learn(self, shown: np.ndarray, clicked: np.ndarray) -> None:
        observed = self.contexts.observed(shown, clicked)
        self.posterior = self.posterior.updated(lambda: [observed])
        self._believe()


class Thompson(OnPosterior):
    """By one draw of the function per request (Pan et al., (5)): as Beliefs.drawn, for many requests with the same ads at once."""

    def choose(self, rows: np.ndarray, requests: Sequence[str]) -> np.ndarray:
        roots = self.beliefs.roots[rows]
        drawn = torch.stack([normals(request, self.seed, roots.shape[1]) for request in requests])
        return (self.beliefs.mean[rows] + drawn @ roots.T).argmax(dim=1).numpy()


class UpperBound(OnPosterior):
    """By the mean plus so many deviations."""

    def __init__(self, contexts: Contexts, posterior: Posterior, seed: int, deviations: float) -> None:
        super().__init__(contexts, posterior, seed)
        self.deviations = deviations

    def choose(self, rows: np.ndarray, requests: Sequence[str]) -> np.ndarray:
        return _highest(self.mean[rows] + self.deviations * self.deviation[rows], requests)


class EpsilonGreedy(OnPosterior):
    """By the mean, but for a share of requests, which get any ad."""

    def __init__(self, contexts: Contexts, posterior: Posterior, seed: int, share: float) -> None:
        super().__init__(contexts, posterior, seed)
        self.share, self.random = share, np.random.default_rng(seed)

    def choose(self, rows: np.ndarray, requests: Sequence[str]) -> np.ndarray:
        any_ad = self.random.integers(0, len(rows), len(requests))
        return np.where(self.random.random(len(requests)) < self.share, any_ad, super().choose(rows, requests))


class Frozen:
    """By the network alone, which learns nothing from what is shown."""

    def __init__(self, contexts: Contexts) -> None:
        self.logits = contexts.logits.numpy()

    def choose(self, rows: np.ndarray, requests: Sequence[str]) -> np.ndarray:
        return _highest(self.logits[rows], requests)

    def learn(self, shown: np.ndarray, clicked: np.ndarray) -> None:
        """Nothing: that is the point of it."""


class LinUcb:
    """Ridge regression of clicks, and so many deviations of its estimate (Li et al., 2010, shared parameters)."""

    def __init__(self, contexts: Contexts, width: float) -> None:
        self.features = self._features(contexts)
        self.width, self.precision = width, np.eye(self.features.shape[1])
        self.sums = np.zeros(self.features.shape[1])
        self.learn(contexts.shown, contexts.clicked)

    def choose(self, rows: np.ndarray, requests: Sequence[str]) -> np.ndarray:
        return _highest(self.bound[rows], requests)

    def learn(self, shown: np.ndarray, clicked: np.ndarray) -> None:
        self.precision = self.precision + (self.features * shown[:, None]).T @ self.features
        self.sums = self.sums + self.features.T @ clicked
        self.bound = self._bounds(self.features)

    def bounds_of(self, contexts: Contexts) -> np.ndarray:
        """(C,) of other contexts."""
        return self._bounds(self._features(contexts))

    def _bounds(self, features: np.ndarray) -> np.ndarray:
        solved = np.linalg.solve(self.precision, np.c_[self.sums, features.T])
        spread = np.einsum("ij,ji->i", features, solved[:, 1:])
        return features @ solved[:, 0] + self.width * np.sqrt(spread)

    @staticmethod
    def _features(contexts: Contexts) -> np.ndarray:
        p = torch.sigmoid(contexts.logits)[:, None]
        return torch.cat([contexts.hidden.double(), p, torch.ones_like(p)], dim=1).numpy()

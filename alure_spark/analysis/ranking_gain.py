"""What is a user embedding worth to a ranking model? NE with it against NE without it (ALURE, the "NE gain" of its tables).

Why here: the embedding is evaluated by two rankers of different kind, so that the answer is one about the embedding. Enters: the
features that a ranker has anyway, the embedding of each row's user at that row's time, labels. Leaves: one `RankingGain` per
ranker. With and without are treated alike: the same folds, the same dials to choose from, on the training part alone.

D columns can drown F: the embedding is one block, centred and divided by one number (its geometry stays), times a factor. Under
the rankers' penalty a small factor makes the block dear; the factor is chosen, and one of the choices is 0: left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from ..errors import DataError
from ..metrics import cluster_bootstrap, normalized_entropy
from ..training.small_network import fit_small_network

FOLDS = 3
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RankingGain:
    """One ranker's answer; tuples run over the seeds."""

    ranker: str
    factor: tuple[float, ...]  # of the embedding block, as chosen; 0 is left out
    ne_without: tuple[float, ...]  # normalised entropy of the test part
    ne_with: tuple[float, ...]
    gain: tuple[float, ...]  # 1 - with / without: above 0 the embedding helps
    mean_gain: float
    low: float  # 95 % interval of mean_gain over groups; it does not hold what other seeds would change
    high: float


@dataclass(frozen=True)
class Ranker:
    fit: Callable[[np.ndarray, np.ndarray, np.ndarray, float, int], Predict]  # (x, labels, groups, dial, seed) -> predict
    dials: tuple[float, ...]
    factors: tuple[float, ...]


def _fit_logistic(x: np.ndarray, labels: np.ndarray, groups: np.ndarray, dial: float, seed: int) -> Predict:
    model = LogisticRegression(C=dial, max_iter=2000).fit(x, labels)
    return lambda rows: model.predict_proba(rows)[:, 1]


def _fit_network(x: np.ndarray, labels: np.ndarray, groups: np.ndarray, dial: float, seed: int) -> Predict:
    return fit_small_network(x, labels, groups, seed, scale=np.ones(x.shape[1]), weight_decay=dial).predict


RANKERS = {
    "logistic_regression": Ranker(_fit_logistic, dials=(0.03, 0.3, 3.0), factors=(0.0, 0.03, 0.1, 0.3, 1.0)),
    "network": Ranker(_fit_network, dials=(0.01,), factors=(0.0, 0.1, 0.3, 1.0)),
}


def ranking_gain(
    base: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    is_train: np.ndarray,
    seeds: Sequence[int] = (7, 8, 9),
    resamples: int = 1000,
) -> list[RankingGain]:
    """One `RankingGain` per ranker of RANKERS.

    base (n, F) and embeddings (n, D) float; labels (n,) 0 or 1; groups (n,) e.g. users; is_train (n,) bool, the rest is evaluated.
    Per seed: 1. folds of the training part by group;  2. dial and factor with the least held-out loss, once with factor 0 only and
    once with all;  3. both fitted on the training part, evaluated on the rest. Where factor 0 wins, with is without and the gain is 0.
    A seed decides the folds, the network's start and its held-out groups. About 4 s per seed for 5,000 rows and D = 128.
    Raises DataError when a feature is not finite or a part lacks a class.
    """
    base, embeddings, labels = (np.asarray(given, np.float64) for given in (base, embeddings, labels))
    groups, is_train = np.asarray(groups), np.asarray(is_train, bool)
    if len({len(base), len(embeddings), len(labels), len(groups), len(is_train)}) > 1:
        raise DataError(f"base {base.shape}, embeddings {embeddings.shape} and labels {labels.shape} must have equal first dimensions")
    if not (np.isfinite(base).all() and np.isfinite(embeddings).all()):
        raise DataError("a feature or an embedding is NaN or infinite; give zeros where a user has no embedding")
    train, test = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    results = []
    for name, ranker in RANKERS.items():
        factors: list[float] = []
        without: list[np.ndarray] = []
        with_: list[np.ndarray] = []
        for seed in seeds:
            losses = _inner_losses(ranker, base[train], embeddings[train], labels[train], groups[train], seed)
            chosen = min(losses, key=losses.__getitem__)
            plain = min((choice for choice in losses if choice[0] == 0), key=losses.__getitem__)
            for (factor, dial), predictions in ((plain, without), (chosen, with_)):
                x = _inputs(base, embeddings, train, factor)
                predictions.append(ranker.fit(x[train], labels[train], groups[train], dial, seed)(x[test]))
            factors.append(chosen[0])
        results.append(_evaluate(name, factors, labels[test], without, with_, groups[test], resamples))
    return results


def _inputs(base: np.ndarray, embeddings: np.ndarray, fitted: np.ndarray, factor: float) -> np.ndarray:
    """(n, F + D) float64, or (n, F) for factor 0, scaled by the rows `fitted`: base columns each, the embedding as one block."""
    centred = base - base[fitted].mean(axis=0)
    deviation = centred[fitted].std(axis=0)
    columns = centred / np.where(deviation > 0, deviation, 1)
    if factor == 0:
        return columns
    block = embeddings - embeddings[fitted].mean(axis=0)
    spread = np.sqrt(block[fitted].var(axis=0).mean())
    return np.hstack([columns, block * (factor / spread if spread > 0 else 0.0)])


def _inner_losses(
    ranker: Ranker, base: np.ndarray, embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
) -> dict[tuple[float, float], float]:
    """(factor, dial) -> NE on held-out groups, over all folds; a row is predicted by the fold that does not know its group."""
    folds = list(GroupKFold(FOLDS, shuffle=True, random_state=seed).split(base, groups=groups))
    losses: dict[tuple[float, float], float] = {}
    for factor in ranker.factors:
        held_out = {dial: np.empty(len(labels)) for dial in ranker.dials}
        for fitted, rest in folds:
            x = _inputs(base, embeddings, fitted, factor)
            for dial in ranker.dials:
                held_out[dial][rest] = ranker.fit(x[fitted], labels[fitted], groups[fitted], dial, seed)(x[rest])
        losses |= {(factor, dial): normalized_entropy(labels, predicted) for dial, predicted in held_out.items()}
    return losses


def _evaluate(
    name: str,
    factors: list[float],
    labels: np.ndarray,
    without: list[np.ndarray],
    with_: list[np.ndarray],
    groups: np.ndarray,
    resamples: int,
) -> RankingGain:
    def gains(weights: np.ndarray | None = None) -> list[float]:
        pairs = zip(without, with_, strict=True)
        return [1 - normalized_entropy(labels, b, weights) / normalized_entropy(labels, a, weights) for a, b in pairs]

    interval = cluster_bootstrap(lambda weights: float(np.mean(gains(weights))), groups, resamples)
    return RankingGain(
        ranker=name,
        factor=tuple(factors),
        ne_without=tuple(normalized_entropy(labels, predicted) for predicted in without),
        ne_with=tuple(normalized_entropy(labels, predicted) for predicted in with_),
        gain=tuple(gains()),
        mean_gain=float(np.mean(gains())),
        low=interval.low,
        high=interval.high,
    )

"""A ridge logistic regression whose strength is chosen by cross-validation: where the read-out's linear part starts."""

from __future__ import annotations

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from ..metrics import normalized_entropy

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # scikit-learn's C: the inverse of the ridge
FOLDS = 3
FEWEST = 10  # labels of the rarer kind, below which the base rate is all that is fitted


def fit_logistic(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, float]:
    """((F,) float64 coefficients, intercept) of labels (n,) 0 or 1 on x (n, F), standardised columns.

    groups (n,): rows of one group (a user) are held out together when the strength is chosen. With fewer than FEWEST labels of
    either kind, or fewer groups than folds, the coefficients are 0 and the intercept is the logit of the smoothed base rate.
    """
    positives = labels > 0
    if min(positives.sum(), (~positives).sum()) < FEWEST or len(np.unique(groups)) < FOLDS:
        return np.zeros(x.shape[1]), float(logit((weights @ labels + 1) / (weights.sum() + 2)))
    folds = [
        (fitted, rest)
        for fitted, rest in GroupKFold(FOLDS).split(x, groups=groups)
        if all(0 < positives[part].sum() < len(part) for part in (fitted, rest))
    ]

    def held_out(strength: float) -> float:
        losses = [
            normalized_entropy(labels[rest], _fit(x, labels, weights, fitted, strength).predict_proba(x[rest])[:, 1], weights[rest])
            for fitted, rest in folds
        ]
        return float(np.mean(losses)) if losses else strength

    model = _fit(x, labels, weights, np.arange(len(x)), min(STRENGTHS, key=held_out))
    return model.coef_[0], float(model.intercept_[0])


def _fit(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, rows: np.ndarray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000).fit(x[rows], labels[rows], sample_weight=weights[rows])

"""Users whose clicks are those of planted_ranking.py, and whose spending its ad decides: how likely, and how much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tests.ranking.planted_ranking import ADS, DRAFT, users

P = 1 / (1 + np.exp(-np.linspace(-2.5, 0.5, ADS + 1)))  # by ad, row 0 is of no ad
MU = np.random.default_rng(5).permutation(np.linspace(0.5, 3.0, ADS + 1))
SIGMA = 0.6
VALUED = replace(DRAFT, tasks=("click", "spent"), values=("spent",))


def spending(count=1500, seed=0):
    """The planted clicks; and spending, lognormal, that its ad decides: how likely, and how much. (batch, (M,) its mean)."""
    given = users(count, seed)
    shown, random = given.impressions, np.random.default_rng([seed, 1])
    ad = shown.rows["ad"].numpy()
    spent = np.where(random.random(len(ad)) < P[ad], np.exp(MU[ad] + SIGMA * random.normal(size=len(ad))), 0.0)
    labels = dict(shown.labels) | {"spent": torch.from_numpy(spent.astype(np.float32))}
    return replace(given, impressions=replace(shown, labels=labels)), P[ad] * np.exp(MU[ad] + SIGMA**2 / 2)

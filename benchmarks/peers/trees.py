"""LightGBM, what people pick instead of a network: 100 trees of 31 leaves on the same rows, the ids as categories.

A field of many ids is cut to LightGBM's bins of categories: a user of it would encode such ids by their rates first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightgbm
import numpy as np

from benchmarks.peers.answer import Rows, answer

TREES = 100
SETTINGS = {"objective": "binary", "num_leaves": 31, "num_threads": 1, "verbosity": -1, "seed": 7}

if __name__ == "__main__":
    rows = Rows.read(Path(sys.argv[1]))
    ids = rows.ids.astype(np.float32)
    trained: list[lightgbm.Booster] = []

    def train(case: str) -> None:
        given = lightgbm.Dataset(ids, rows.labels, categorical_feature=list(range(ids.shape[1])))
        trained[:] = [lightgbm.train(SETTINGS, given, TREES)]

    answer({"train": train, "score": lambda case: float(trained[0].predict(ids, num_threads=1).sum())})

"""LightGBM's side of benchmarks/ranking_quality.py, which starts this file with the Python of an environment that has it.

python ranking_lightgbm.py ROWS.npz PREDICTIONS.npy PARAMETERS_AS_JSON: fits x, y of the fitted rows, stops on the held-out ones, predicts
x_test. No other module of the project is imported.
"""

from __future__ import annotations

import json
import sys

import numpy as np


def main() -> None:
    import lightgbm

    rows, into, parameters = np.load(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    categorical, held_out = rows["categorical"].tolist(), rows["held_out"]
    fitted = lightgbm.Dataset(rows["x"][~held_out], rows["y"][~held_out], categorical_feature=categorical)
    validation = lightgbm.Dataset(rows["x"][held_out], rows["y"][held_out], reference=fitted)
    fixed = {"objective": "binary", "metric": "binary_logloss", "verbose": -1, "num_threads": 1}
    stop = lightgbm.early_stopping(50, verbose=False)
    model = lightgbm.train(fixed | parameters, fitted, 2000, valid_sets=[validation], callbacks=[stop])
    np.save(into, model.predict(rows["x_test"]))


if __name__ == "__main__":
    main()

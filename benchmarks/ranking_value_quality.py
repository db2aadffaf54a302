"""How much will a household spend on a campaign's products? The ranking model's value task on completejourney, beside other methods.

    python -m benchmarks.ranking_value_quality --lightgbm PYTHON_OF_AN_ENVIRONMENT_WITH_LIGHTGBM

Quality, not speed, and no Spark. The rows, fields and splits are those of benchmarks/ranking_quality.py; the label is what a household
spends on products of the campaign while it runs, as known when the training part ends. Per method: 1. the best of at most four candidates,
by Gini on an inner split of the training part; 2. it is fitted on the training part once per seed; 3. the mean of the seeds' predictions is
evaluated on the later campaigns. Intervals: bootstrap over households, the same draws for both sides of a difference. Without its Python
LightGBM is left out (`pip install lightgbm==4.7.0` elsewhere). One core, some ten minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from alure_spark.clock import DAY_MS
from alure_spark.config import LossConfig
from alure_spark.metrics import cluster_bootstrap
from alure_spark.ranking.network import RankingNetwork
from alure_spark.sources.completejourney import DEMOGRAPHICS
from alure_spark.value_metrics import decile_error, expected_over_observed, fit_factor, normalized_gini, rmse_over_mean
from benchmarks import contract, ranking_sets
from benchmarks.ranking_methods import CROSS, FLAT, Fit, Shape, columns, first_probability, lightgbm, logistic, ranking_network
from benchmarks.ranking_quality import FEW, OURS, STRENGTHS, Candidates, chosen
from benchmarks.ranking_sets import TASK, RankingRows

METRICS = {
    "gini": normalized_gini,
    "rmse": rmse_over_mean,
    "calibration": expected_over_observed,
    "decile_error": decile_error,
}
RATES = (0.02, 0.05)


def loss(label: np.ndarray, predicted: np.ndarray) -> float:
    """What candidates are chosen by."""
    return 1 - normalized_gini(label, predicted)


def expected(network: RankingNetwork, outputs: Tensor) -> Tensor:
    """(M,) calibrated expected values of the value task."""
    return network.predictions(outputs.double())[:, 0]


def as_logs(fit: Fit) -> Fit:
    """The same on log(1 + x) of the numbers, as the linear models have them."""
    return lambda rows, seed: fit(replace(rows, numbers={name: np.log1p(values) for name, values in rows.numbers.items()}), seed)


def above_zero(rows: RankingRows) -> RankingRows:
    """The rows, labelled by whether anything was spent."""
    return replace(rows, label=(rows.label > 0).astype(float), training_label=(rows.training_label > 0).astype(float))


def buyers(rows: RankingRows) -> RankingRows:
    """Training rows of those who spent something, and all rows that are predicted."""
    return rows.select(~rows.is_train | (rows.training_label > 0))


def times_mean(probability: Fit) -> Fit:
    """How likely anything is spent, times the mean of what buyers of the training rows spent."""

    def fit(rows: RankingRows, seed: int) -> np.ndarray:
        spent = rows.training_label[rows.is_train]
        return probability(above_zero(rows), seed) * spent[spent > 0].mean()

    return fit


def hurdle(probability: Fit, size: Fit) -> Fit:
    """How likely anything is spent, times how much, which is fitted on buyers alone."""
    return lambda rows, seed: probability(above_zero(rows), seed) * size(buyers(rows), seed)


def ridge_of_logs(strength: float, categories: Sequence[str], numbers: Sequence[str]) -> Fit:
    """exp of a linear model of the log of what was spent, at most the most that was, times what makes the training rows' mean right."""

    def fit(rows: RankingRows, seed: int) -> np.ndarray:
        x, train = columns(rows, categories, numbers), rows.is_train
        spent = rows.training_label[train]
        model = Ridge(alpha=strength).fit(x[train], np.log(spent))
        predicted: np.ndarray = np.exp(np.minimum(model.predict(x), np.log(spent.max())))
        return fit_factor(spent, predicted[train]) * predicted[~train]

    return fit


def history(rows_of: Callable[[RankingRows], np.ndarray]) -> Fit:
    """A number that is known before the campaign, times what makes the training rows' mean right."""

    def fit(rows: RankingRows, seed: int) -> np.ndarray:
        values = rows_of(rows)
        factor = fit_factor(rows.training_label[rows.is_train], values[rows.is_train])
        return factor * values[~rows.is_train]

    return fit


def own_rate(rows: RankingRows) -> np.ndarray:
    """(n,) what the household spent on the campaign's products before, times the campaign's days."""
    return rows.numbers["campaign_product_spend"] * (rows.numbers["campaign_days"] + 1)


def own_rate_per_day(rows: RankingRows) -> np.ndarray:
    """The same, per day of the log so far: what was spent before grows with the time in which it was."""
    first = rows.time_ms.min()
    return own_rate(rows) / (1 + (rows.time_ms - first) / (90 * DAY_MS))


def methods_of(rows: RankingRows, python: str, sizes: list[int]) -> dict[str, Candidates]:
    """Method -> its candidates."""
    numbers, categories = list(rows.numbers), ["campaign_type", *DEMOGRAPHICS]
    spec: dict[str, Any] = {"tables": {"one": 4}, "experts": {"flat": FLAT, "cross": CROSS}, "hidden": 32}
    spec |= {"tower": (), "linear": True, "dropout": 0.3}
    base = Shape(categories, (), numbers, spec=spec | {"values": (TASK,)}, config=FEW)
    digits: dict[str, Any] = {"digits": numbers, "options": {"steps": 8, "bases": (2,)}}
    pairs: dict[str, Any] = {"config": replace(FEW, loss=LossConfig("pairwise"))}
    ours = {"likelihood": base, "and digits": replace(base, **digits), "and pairs": replace(base, **pairs),
            "and both": replace(base, **digits, **pairs)}  # fmt: skip
    plain = replace(base, spec=spec)
    found: dict[str, Candidates] = {
        OURS: {name: as_logs(ranking_network(shape, sizes, read=expected)) for name, shape in ours.items()},
        "ranking model, probability x mean": {
            name: times_mean(as_logs(ranking_network(shape, sizes, read=first_probability)))
            for name, shape in {"logits": plain, "and digits": replace(plain, **digits)}.items()
        },
    }
    if python:
        dials = [{"learning_rate": rate} | size for rate in RATES for size in ({}, {"num_leaves": 15, "min_child_samples": 50})]
        names = [", ".join(f"{key} {value:g}" for key, value in dial.items()) for dial in dials]
        tweedie: dict[str, Any] = {"objective": "tweedie", "metric": "tweedie", "tweedie_variance_power": 1.5}
        gamma: dict[str, Any] = {"objective": "gamma", "metric": "gamma"}
        found["LightGBM, Tweedie"] = {name: lightgbm(python, **tweedie, **dial) for name, dial in zip(names, dials, strict=True)}
        found["LightGBM, hurdle"] = {
            name: hurdle(lightgbm(python, **dial), lightgbm(python, **gamma, **dial)) for name, dial in zip(names, dials, strict=True)
        }
    found["logistic x mean"] = {f"C {c:g}": times_mean(logistic(c, categories, numbers)) for c in STRENGTHS}
    found["logistic x linear of logs"] = {
        f"C {c:g}, decay {decay:g}": hurdle(logistic(c, categories, numbers), ridge_of_logs(decay, categories, numbers))
        for c in (0.03, 0.3)
        for decay in (1.0, 30.0)
    }
    found["spend before"] = {"on its products x days": history(own_rate), "and per day": history(own_rate_per_day)}
    return found


def measure(
    rows: RankingRows, methods: Mapping[str, Candidates], seeds: Sequence[int], resamples: int, sizes: list[int]
) -> list[contract.Row]:
    """One row per method; all but OURS say OURS minus themselves."""
    label, users = rows.label[~rows.is_train], rows.user[~rows.is_train]
    predicted: dict[str, np.ndarray] = {}
    results: list[contract.Row] = []
    for method, candidates in methods.items():
        name, inner = chosen(candidates, rows, seeds, loss)
        single = [candidates[name](rows, seed) for seed in seeds]
        predicted[method] = np.mean(single, axis=0)
        row: contract.Row = {"road": method, "chosen": name, "candidates": len(candidates), "inner_gini": 1 - inner}
        row |= {"parameters": sizes[-1] if sizes else None}
        sizes.clear()
        row |= {key: metric(label, predicted[method]) for key, metric in METRICS.items()}
        row |= {"gini_seeds": [normalized_gini(label, one) for one in single]}
        for key in ("gini", "rmse") if method != OURS else ():
            row |= _difference(key, label, users, predicted[OURS], predicted[method], resamples)
        results.append(row)
        print(row, file=sys.stderr, flush=True)
    return results


def _difference(key: str, label: np.ndarray, users: np.ndarray, ours: np.ndarray, other: np.ndarray, resamples: int) -> dict[str, float]:
    metric = METRICS[key]
    low, high = cluster_bootstrap(lambda w: metric(label, ours, w) - metric(label, other, w), users, resamples)
    return {f"ours_minus_{key}": metric(label, ours) - metric(label, other), f"ours_minus_{key}_low": low, f"ours_minus_{key}_high": high}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, (7, 8, 9))
    parser.add_argument("--lightgbm", default="", metavar="PYTHON", help="the Python of an environment that has lightgbm")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not options.lightgbm:
        print("LightGBM is left out: --lightgbm names no Python", file=sys.stderr)
    rows, sizes = ranking_sets.completejourney("spend"), list[int]()
    found = measure(rows, methods_of(rows, options.lightgbm, sizes), options.seeds, options.resamples, sizes)
    tested = rows.label[~rows.is_train]
    size = {"seeds": options.seeds, "resamples": options.resamples, "rows": len(rows.label), "tested": len(tested)}
    size |= {"households": len(np.unique(rows.user[~rows.is_train])), "positive": float((tested > 0).mean()), "mean": float(tested.mean())}
    contract.publish("ranking_value_quality", size, found, {}, options.results)


if __name__ == "__main__":
    main()

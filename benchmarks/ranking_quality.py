"""How good are the ranking model's probabilities on real data? NE and AUC beside the methods that one would use instead.

    python -m benchmarks.ranking_quality --data ../shared/data --lightgbm PYTHON_OF_AN_ENVIRONMENT_WITH_LIGHTGBM

Quality, not speed, and no Spark. Per set and method: 1. the best of at most four candidates, by NE on an inner split of the training part;
2. it is fitted on the training part once per seed; 3. the mean of the seeds' probabilities is evaluated on the other part, which nothing
else has touched. So all sides are ensembles of as many fits. The candidates of every method were narrowed down by hand on the same inner
splits before. Intervals: bootstrap over users (of census over rows), the same draws for both sides of a difference. A set whose
folder is not given is left out, and so is LightGBM without its Python (`pip install lightgbm==4.7.0` elsewhere).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alure_spark.config import ExpertConfig, RankingConfig, SequenceConfig
from alure_spark.metrics import auc, cluster_bootstrap, grouped_auc, normalized_entropy
from alure_spark.sources.completejourney import DEMOGRAPHICS
from benchmarks import contract, ranking_sets
from benchmarks.ranking_methods import CROSS, FLAT, Fit, Shape, column, lightgbm, logistic, ranking_network, small_network
from benchmarks.ranking_sets import RankingRows

OURS = "ranking model"
Candidates = Mapping[str, Fit]
Methods = Mapping[str, Candidates]  # method -> its candidates, by what they differ in
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]  # (labels, predictions, weights)
STRENGTHS = (0.01, 0.03, 0.1, 0.3)
FEW = RankingConfig(epochs=40, patience=5, batch_users=128, learning_rate=3e-3, weight_decay=1.0)


def inner_split(rows: RankingRows, share: float = 0.3) -> RankingRows:
    """The training rows alone, of which the latest are predicted; where all have one time, random ones. Labels are those of training."""
    rows = rows.select(rows.is_train)
    rank = np.random.default_rng(1).permutation(len(rows.user)) if np.ptp(rows.time_ms) == 0 else rows.time_ms
    return replace(rows, label=rows.training_label, is_train=rank < np.quantile(rank, 1 - share))


def chosen(
    candidates: Candidates,
    rows: RankingRows,
    seeds: Sequence[int],
    loss: Callable[[np.ndarray, np.ndarray], float] = normalized_entropy,
) -> tuple[str, float]:
    """(The candidate with the least loss of (labels, predictions) on the inner split, that loss); of one candidate none is measured."""
    if len(candidates) == 1:
        return next(iter(candidates)), float("nan")
    inner = inner_split(rows)
    label = inner.label[~inner.is_train]
    losses = {name: loss(label, _mean(fit, inner, seeds)) for name, fit in candidates.items()}
    best = min(losses, key=losses.__getitem__)
    return best, losses[best]


def _mean(fit: Fit, rows: RankingRows, seeds: Sequence[int]) -> np.ndarray:
    predicted: np.ndarray = np.mean([fit(rows, seed) for seed in seeds], axis=0)
    return predicted


def measure(rows: RankingRows, methods: Methods, metrics: Mapping[str, Metric], options: Any, tuning_seeds: int = 3) -> list[contract.Row]:
    """One row per method. metrics: the first one has an interval of its own; all have one of OURS minus the method."""
    label, users = rows.label[~rows.is_train], rows.user[~rows.is_train]
    predicted: dict[str, np.ndarray] = {}
    results: list[contract.Row] = []
    for method, candidates in methods.items():
        name, inner = chosen(candidates, rows, options.seeds[:tuning_seeds])
        single = [candidates[name](rows, seed) for seed in options.seeds]
        predicted[method] = np.mean(single, axis=0)
        row: contract.Row = {
            "set": rows.name,
            "road": method,
            "chosen": name,
            "candidates": len(candidates),
            "resamples": options.resamples,
        }
        row |= {"inner_ne": None if np.isnan(inner) else inner, "parameters": SIZES[-1] if SIZES else None}
        SIZES.clear()
        for key, metric in metrics.items():
            ones = np.ones(len(label))
            if key == "ne" and not _are_probabilities(predicted[method]):
                continue
            row |= {key: metric(label, predicted[method], ones), f"{key}_seeds": [metric(label, one, ones) for one in single]}
            if method != OURS:
                row |= _difference(key, metric, label, users, predicted[OURS], predicted[method], options.resamples)
        results.append(row)
        print({key: value for key, value in row.items() if key != "set"}, file=sys.stderr, flush=True)
    return results


SIZES: list[int] = []  # parameters of the networks that were made last


def _are_probabilities(values: np.ndarray) -> bool:
    return bool(values.min() >= 0 and values.max() <= 1)


def _difference(
    key: str, metric: Metric, label: np.ndarray, users: np.ndarray, ours: np.ndarray, other: np.ndarray, resamples: int
) -> contract.Row:
    """OURS minus the other, and its interval."""

    def minus(weights: np.ndarray) -> float:
        return metric(label, ours, weights) - metric(label, other, weights)

    low, high = cluster_bootstrap(minus, users, resamples)
    return {f"ours_minus_{key}": minus(np.ones(len(label))), f"ours_minus_{key}_low": low, f"ours_minus_{key}_high": high}


PROBABILITY: dict[str, Metric] = {"auc": auc, "ne": normalized_entropy}


def of_completejourney(label: str, options: Any) -> list[contract.Row]:
    """Both labels: the same fields, methods and candidates."""
    rows = ranking_sets.completejourney(label)
    numbers, plain, more = list(rows.numbers), ["campaign_type"], ["campaign_type", *DEMOGRAPHICS]
    base = Shape(more, (), numbers, spec={"tables": {"one": 4}, "experts": {"flat": FLAT, "cross": CROSS}, "hidden": 32, "tower": (),
                                          "linear": True, "dropout": 0.3}, config=FEW)  # fmt: skip
    histories = {name: SequenceConfig(name, "campaign_type", "campaign_type", events=20) for name in ("sent", "redeemed")}
    ours = {
        "numbers standardized": base,
        "and digits": replace(base, digits=numbers, options={"steps": 8, "bases": (2,)}),
        "and histories": replace(base, sequences=histories),
        "no cross": replace(base, spec=dict(base.spec) | {"experts": {"flat": FLAT}}),
    }
    same = replace(base, categories=plain)
    dials = ((0.01, 3e-3), (1.0, 3e-3), (0.01, 1e-3), (1.0, 1e-3))
    methods = {
        OURS: {name: ranking_network(shape, SIZES) for name, shape in ours.items()},
        "ranking model, 18 aggregates": {"numbers standardized": ranking_network(same, SIZES)},
    }
    for named, categories in (("18 aggregates", plain), ("and demographics", more)):
        methods[f"logistic regression, {named}"] = {f"C {c:g}": logistic(c, categories, numbers) for c in STRENGTHS}
        methods[f"small network, {named}"] = {f"decay {d:g}, rate {r:g}": small_network(d, r, categories, numbers) for d, r in dials}
    return measure(rows, methods, PROBABILITY, options)


def of_census(options: Any) -> list[contract.Row]:
    rows = ranking_sets.census(options.data)
    names, numbers = list(rows.categories), list(rows.numbers)
    methods: dict[str, Candidates] = {OURS: {name: ranking_network(shape, SIZES) for name, shape in census_shapes(rows).items()}}
    methods |= {
        "ranking model, one table": {name: ranking_network(shape, SIZES) for name, shape in census_shapes(rows, single=True).items()}
    }
    if options.lightgbm:
        small = {"learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 50, "feature_fraction": 0.5, "cat_smooth": 30}
        sampled = {"learning_rate": 0.03, "min_child_samples": 50, "feature_fraction": 0.3, "lambda_l2": 5}
        sampled |= {"bagging_fraction": 0.8, "bagging_freq": 1}
        dials: dict[str, dict[str, float]] = {"defaults": {}, "rate 0.05": {"learning_rate": 0.05}, "small": small, "sampled": sampled}
        methods["LightGBM"] = {name: lightgbm(options.lightgbm, 0.1, **dial) for name, dial in dials.items()}
        methods["LightGBM, defaults"] = {"defaults": lightgbm(options.lightgbm, 0.1)}
    methods["logistic regression"] = {f"C {c:g}": logistic(c, names, numbers, 3) for c in (0.1, 1.0)}
    return measure(rows, methods, PROBABILITY, options, tuning_seeds=1)


def census_shapes(rows: RankingRows, single: bool = False) -> dict[str, Shape]:
    """Two tables, with two settings of the dials; or one table of a width that makes about as many parameters, with the same experts."""
    base = Shape(
        list(rows.categories),
        list(rows.numbers),
        list(rows.numbers),
        options={"bases": (2, 3, 10, 256)},
        spec={"linear": True, "dropout": 0.2} | (ONE_TABLE if single else TWO_TABLES),
        config=RankingConfig(
            epochs=6, patience=2, batch_users=1024, learning_rate=2e-3, table_learning_rate_share=1.0, weight_decay=0.1, seed=7
        ),
        min_count=3,
        held_out=0.1,
    )
    faster = replace(base, config=replace(base.config, table_learning_rate_share=3.0, weight_decay=0.01))
    return {"faster tables": faster} if single else {"faster tables": faster, "more decay": base}


TWO_TABLES = {"tables": {"one": 8, "two": 4}, "experts": {"flat": FLAT, "cross": ExpertConfig("dcn_v2", "two")}}
ONE_TABLE = {"tables": {"one": 5}, "experts": {"flat": FLAT, "cross": CROSS}}


def of_ebnerd(options: Any) -> list[contract.Row]:
    """AUC within an impression, weighted by its articles in view."""
    rows = ranking_sets.ebnerd(options.data)
    impression = np.unique(rows.categories["impression"][~rows.is_train], return_inverse=True)[1]
    numbers = list(rows.numbers)

    def within(label: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
        value = grouped_auc(label, predicted, impression, weights)
        return float("nan") if value is None else value

    rows = replace(rows, categories={name: values for name, values in rows.categories.items() if name != "impression"})
    base = Shape(
        ["device"],
        (),
        numbers,
        spec={"tables": {"one": 4}, "hidden": 16, "tower": (), "linear": True, "dropout": 0.3},
        config=replace(FEW, batch_users=4),
    )
    ours = {
        "numbers standardized": base,
        "and digits": replace(base, digits=numbers, options={"steps": 8, "bases": (2,)}),
        "and articles": replace(base, categories=["device", "article"], min_count=5),
        "cross": replace(base, spec=dict(base.spec) | {"experts": {"flat": FLAT, "cross": CROSS}}),
    }  # fmt: skip
    methods: dict[str, Candidates] = {
        OURS: {name: ranking_network(shape, SIZES) for name, shape in ours.items()},
        "logistic regression": {f"C {c:g}": logistic(c, ["device"], numbers) for c in STRENGTHS},
        "popularity (clicks before)": {"clicks": column("clicks")},
        "click rate before": {"click_rate": column("click_rate")},
    }
    return measure(rows, methods, {"auc": within, "ne": normalized_entropy}, options)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of census_income.parquet and ebnerd_sample; without it they are left out")
    parser.add_argument("--lightgbm", default="", metavar="PYTHON", help="the Python of an environment that has lightgbm")
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not options.lightgbm:
        print("LightGBM is left out: --lightgbm names no Python", file=sys.stderr)
    for name in options.sets:
        title, run, needs_data = SETS[name]
        if needs_data and options.data is None:
            print(f"{title} is left out: --data names no folder", file=sys.stderr)
            continue
        rows = run(options)  # a quarter of an hour for a set: what it says is published before the next one starts
        rows = contract.earlier("ranking_quality", lambda row, title=title: row["set"] != title) + rows  # type: ignore[misc]
        contract.publish("ranking_quality", {"seeds": options.seeds}, rows, {})


SETS: dict[str, tuple[str, Callable[[Any], list[contract.Row]], bool]] = {  # name -> title of its rows, what measures it, needs --data
    "redemption": ("completejourney redemption", lambda options: of_completejourney("redemption", options), False),
    "purchase": ("completejourney purchase", lambda options: of_completejourney("purchase", options), False),
    "census": ("census_income", of_census, True),
    "ebnerd": ("ebnerd", of_ebnerd, True),
}


if __name__ == "__main__":
    main()

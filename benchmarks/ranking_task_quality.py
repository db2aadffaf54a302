"""Ways of sharing tables between two tasks, on real data: census_income and completejourney.

    python -m benchmarks.ranking_task_quality --data ../shared/data --lightgbm PYTHON_OF_AN_ENVIRONMENT_WITH_LIGHTGBM

Every scheme has the same fields, as many parameters, one kind of expert (FlatDNN) and one setting of the dials, which
benchmarks/ranking_quality.py found for a single task: none is tuned here. The mean of the seeds' probabilities is evaluated on rows that
nothing else has touched. Intervals: bootstrap over users (of census over rows), the same draws for both sides of a difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.metrics import auc, cluster_bootstrap, normalized_entropy
from alure_spark.ranking.spec import RankingSpec
from alure_spark.training import ranking_model
from benchmarks import contract, ranking_sets
from benchmarks.ranking_methods import STANDARD, Shape, held_out, lightgbm
from benchmarks.ranking_parts import equalized, parameters
from benchmarks.ranking_quality import FEW, census_shapes
from benchmarks.ranking_sets import DEMOGRAPHICS, TASK, Ids, RankingRows, batch_of
from benchmarks.ranking_tasks import schemed

Rows = Mapping[str, RankingRows]  # task -> the same rows with its labels
SINGLE, LIGHTGBM = "single task", "LightGBM"
SCHEMES = ("shared_bottom", "mmoe", "ple", "stem", "ame")
NUMBERS = 12  # of a field's rows, all tables of a scheme together
FLAT: dict[str, Any] = {"kind": "flat_dnn", "options": {"hidden": ()}}
SMALL = {"learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 50, "feature_fraction": 0.5, "cat_smooth": 30}
DIALS: Mapping[str, Mapping[str, float]] = {"census_income": SMALL, "completejourney": {}}  # of LightGBM; {}: its defaults


def census(folder: Path) -> Rows:
    """Income above 50,000 dollars; never married. Neither the marital status nor the weight of a person is a field."""
    rows = ranking_sets.census(folder)
    married = pd.read_parquet(folder / "census_income.parquet", columns=["marital_status"])["marital_status"].str.strip()
    label = (married == "Never married").to_numpy(np.float64)
    return {"income": rows, "never_married": replace(rows, label=label, training_label=label)}


def completejourney() -> Rows:
    return {label: ranking_sets.completejourney(label) for label in ("redemption", "purchase")}


def models(tasks: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Model -> (its scheme, its tasks)."""
    found = {scheme: (scheme, tuple(tasks)) for scheme in SCHEMES}
    for task in tasks:
        found[f"{SINGLE} {task}"] = ("shared_bottom", (task,))
        found[f"stem_al {task}"] = ("stem_al", (task, *(other for other in tasks if other != task)))
    return found


def loaded(rows: Rows, shape: Shape, ids: Ids, seed: int) -> MemoryLoader:
    """The training rows with the labels of all tasks, of which a share validates."""
    return MemoryLoader(_labelled(rows, ids, True, lambda one: held_out(one, shape.held_out, seed))[0], shape.config.batch_users, seed)


def _labelled(rows: Rows, ids: Ids, train: bool, validates: Callable[[RankingRows], np.ndarray]) -> tuple[JaggedBatch, np.ndarray]:
    """(Rows of the training part or the other one as a batch, (n,) the row number of each impression)."""
    parts = {task: one.select(one.is_train == train) for task, one in rows.items()}
    made = {task: batch_of(one, ids, validates(one)) for task, one in parts.items()}
    batch, order = next(iter(made.values()))
    assert batch.impressions is not None
    labels = {task: one.impressions.labels[TASK] for task, (one, _) in made.items() if one.impressions is not None}
    return replace(batch, impressions=replace(batch.impressions, labels=labels)), order


def predicted(spec: RankingSpec, rows: Rows, shape: Shape, ids: Ids, seed: int) -> dict[str, np.ndarray]:
    """Task -> (n,) probabilities of the rows that are not of training, uncalibrated, of the tasks that the model serves."""
    loader = loaded(rows, shape, ids, seed)
    network = ranking_model.new_network(spec, loader, seed)
    ranking_model.train(network, loader, replace(shape.config, seed=seed))
    whole, order = _labelled(rows, ids, False, lambda one: np.zeros(len(one.user), bool))
    with torch.no_grad():
        logits = torch.cat([network(part) for part in MemoryLoader(whole, 2048, 0).in_order()]).double()
    found = {}
    for task in spec.served().tasks:
        found[task] = np.empty(len(order))
        found[task][order] = torch.sigmoid(logits[:, spec.tasks.index(task)]).numpy()
    return found


def fitted_specs(rows: Rows, shape: Shape, ids: Ids, seed: int) -> dict[str, RankingSpec]:
    """Model -> its spec with fitted encodings, all of as many parameters."""
    draft, loader = shape.draft(), loaded(rows, shape, ids, seed)
    drafts = {name: schemed(draft, scheme, FLAT, tasks, NUMBERS) for name, (scheme, tasks) in models(list(rows)).items()}
    fitted = ranking_model.fitted_spec(next(iter(drafts.values())), loader, ids.vocabulary())
    return equalized({name: replace(one, fields=fitted.fields) for name, one in drafts.items()})


def measured(name: str, rows: Rows, shape: Shape, options: Any) -> list[contract.Row]:
    """One row per model and task."""
    rows = {task: _with_standardized(one, shape) for task, one in rows.items()}
    ids = Ids.of_training(next(iter(rows.values())), shape.min_count)
    mean: dict[tuple[str, str], np.ndarray] = {}
    specs = fitted_specs(rows, shape, ids, options.seeds[0])
    for model, spec in specs.items():
        each = [predicted(spec, rows, shape, ids, seed) for seed in options.seeds]
        for task in each[0]:
            mean[model.removesuffix(f" {task}"), task] = np.mean([one[task] for one in each], axis=0)
        print(f"{name}: {model} is done", file=sys.stderr, flush=True)
    if options.lightgbm:
        fit = lightgbm(options.lightgbm, shape.held_out, **DIALS[name])
        for task, one in rows.items():
            plain = replace(one, numbers={key: its for key, its in one.numbers.items() if not key.endswith(STANDARD)})
            mean[LIGHTGBM, task] = np.mean([fit(plain, seed) for seed in options.seeds], axis=0)
    sizes = {model.removesuffix(f" {task}"): parameters(spec) for model, spec in specs.items() for task in rows}
    result: list[contract.Row] = []
    for (model, task), p in sorted(mean.items(), key=lambda item: list(rows).index(item[0][1])):
        row: contract.Row = {"set": name, "model": model, "task": task, "parameters": sizes.get(model)}
        result.append(row | _row(rows[task], p, mean[SINGLE, task], options.resamples))
    return result


def _with_standardized(rows: RankingRows, shape: Shape) -> RankingRows:
    return replace(rows, numbers=dict(rows.numbers) | {f"{name}{STANDARD}": rows.numbers[name] for name in shape.standardized})


def _row(rows: RankingRows, p: np.ndarray, single: np.ndarray, resamples: int) -> contract.Row:
    """AUC and NE of probabilities (n,), and what they have more than those of the model of this task alone."""
    label, users = rows.label[~rows.is_train], rows.user[~rows.is_train]
    row: contract.Row = {"rate": float(label.mean())}
    for key, metric in (("auc", auc), ("ne", normalized_entropy)):
        ones = np.ones(len(label))
        row[key] = metric(label, p, ones)
        if p is single:
            continue

        def minus(weights: np.ndarray, metric: Callable[..., float] = metric) -> float:
            return float(metric(label, p, weights) - metric(label, single, weights))

        low, high = cluster_bootstrap(minus, users, resamples)
        row |= {f"{key}_minus_single": minus(ones), f"{key}_low": low, f"{key}_high": high}
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of census_income.parquet; without it that set is left out")
    parser.add_argument("--lightgbm", default="", metavar="PYTHON", help="the Python of an environment that has lightgbm")
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.sets:
        if name == "census_income" and options.data is None:
            print("census_income is left out: --data names no folder", file=sys.stderr)
            continue
        rows, shape = SETS[name](options)
        kept = contract.earlier("ranking_task_quality", lambda row, name=name: row["set"] != name, options.results)  # type: ignore[misc]
        contract.publish("ranking_task_quality", {"seeds": options.seeds}, kept + measured(name, rows, shape, options), {}, options.results)


def _of_census(options: Any) -> tuple[Rows, Shape]:
    rows = census(options.data)
    return rows, census_shapes(next(iter(rows.values())), single=True)["faster tables"]


def _of_completejourney(options: Any) -> tuple[Rows, Shape]:
    rows = completejourney()
    names, numbers = ["campaign_type", *DEMOGRAPHICS], list(next(iter(rows.values())).numbers)
    return rows, Shape(names, (), numbers, spec={"hidden": 32, "tower": (), "linear": True, "dropout": 0.3}, config=FEW)


SETS: dict[str, Callable[[Any], tuple[Rows, Shape]]] = {"completejourney": _of_completejourney, "census_income": _of_census}


if __name__ == "__main__":
    main()

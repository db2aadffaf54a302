"""The methods that benchmarks/ranking_quality.py compares: each is fitted on the training rows of a set and predicts the others.

Every method that needs to know when to stop holds out the same fifth (of census a tenth) of the training rows' users, drawn by the seed.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExpertConfig, RankingConfig, SequenceConfig
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_model
from alure_spark.training.small_network import fit_small_network
from benchmarks.ranking_sets import TASK, Ids, RankingRows, batch_of

Fit = Callable[[RankingRows, int], np.ndarray]  # (rows, seed) -> predictions of the rows that are not of training, in their order
STANDARD = "_standardized"
FLAT, CROSS = ExpertConfig("flat_dnn", "one", {"hidden": ()}), ExpertConfig("dcn_v2", "one")


@dataclass(frozen=True)
class Shape:
    """A ranking model, and how it is trained."""

    categories: Sequence[str]
    digits: Sequence[str] = ()  # numbers by their digits (MNS)
    standardized: Sequence[str] = ()  # numbers by mean and deviation
    options: Mapping[str, Any] = field(default_factory=dict)  # of the digits
    sequences: Mapping[str, SequenceConfig] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)  # more of RankingSpec
    config: RankingConfig = field(default_factory=RankingConfig)
    min_count: int = 1
    held_out: float = 0.2  # of the training rows' users

    def draft(self) -> RankingSpec:
        fields = {name: FieldSpec("id", group="category", part="category") for name in self.categories}
        fields |= {name: FieldSpec("numeral_systems", self.options, group="number", part="number") for name in self.digits}
        fields |= {f"{name}{STANDARD}": FieldSpec("standardized", group="number", part="number") for name in self.standardized}
        given: dict[str, Any] = {"tables": {"one": 8}, "experts": {"flat": FLAT}} | dict(self.spec)
        return RankingSpec(fields, tasks=(TASK,), sequences=self.sequences, **given)


def held_out(rows: RankingRows, share: float, seed: int) -> np.ndarray:
    """(n,) bool: the rows of a random share of the users of training rows; where each row has a user of its own, of the rows."""
    users = np.unique(rows.user[rows.is_train])
    chosen = np.random.default_rng(seed).permutation(users)[: max(1, round(share * len(users)))]
    return np.isin(rows.user, chosen) & rows.is_train


def first_probability(network: RankingNetwork, outputs: Tensor) -> Tensor:
    """(M,) of the first task, uncalibrated."""
    return torch.sigmoid(outputs[:, 0].double())


def ranking_network(
    shape: Shape,
    sizes: list[int] | None = None,
    change: Callable[[JaggedBatch], JaggedBatch] | None = None,
    read: Callable[[RankingNetwork, Tensor], Tensor] = first_probability,
) -> Fit:
    """The model of alure_spark/ranking, uncalibrated as its peers are; `sizes` gets its number of parameters.

    change: of the impressions that it learns from, once their splits are known. read: what it predicts (M,), of what it says (M, outputs).
    """

    def fit(rows: RankingRows, seed: int) -> np.ndarray:
        rows = replace(rows, numbers=dict(rows.numbers) | {f"{name}{STANDARD}": rows.numbers[name] for name in shape.standardized})
        ids = Ids.of_training(rows, shape.min_count)
        training = rows.select(rows.is_train)
        batch, _ = batch_of(training, ids, held_out(training, shape.held_out, seed))
        loader = MemoryLoader(change(batch) if change else batch, shape.config.batch_users, seed)
        spec = ranking_model.fitted_spec(shape.draft(), loader, ids.vocabulary())
        network = ranking_model.new_network(spec, loader, seed)
        ranking_model.train(network, loader, replace(shape.config, seed=seed))
        if sizes is not None:
            sizes.append(sum(network.parameter_counts().values()))
        tested = rows.select(~rows.is_train)
        whole, order = batch_of(tested, ids, np.zeros(len(tested.user), bool))
        predicted = np.empty(len(order))
        with torch.no_grad():
            outputs = torch.cat([network(part) for part in MemoryLoader(whole, 2048, 0).in_order()])
            predicted[order] = read(network, outputs).numpy()
        return predicted

    return fit


def columns(rows: RankingRows, categories: Sequence[str], numbers: Sequence[str], min_count: int = 1) -> np.ndarray:
    """(n, F) float64: the numbers as log(1 + x), standardized, and a column per id."""
    parts = []
    if numbers:
        logs = np.log1p(np.stack([rows.numbers[name] for name in numbers], axis=1))
        fitted = logs[rows.is_train]
        deviation = fitted.std(axis=0)
        parts.append((logs - fitted.mean(axis=0)) / np.where(deviation > 0, deviation, 1))
    ids = Ids.of_training(rows, min_count)
    for name in categories:
        place = ids.rows(name, rows.categories[name]).numpy()
        parts.append(np.eye(len(ids.of[name]) + 1)[place])
    return np.concatenate(parts, axis=1)


def logistic(strength: float, categories: Sequence[str], numbers: Sequence[str], min_count: int = 1) -> Fit:
    last: list[tuple[RankingRows, np.ndarray]] = []

    def fit(rows: RankingRows, seed: int) -> np.ndarray:
        if not last or last[0][0] is not rows:  # no seed changes it
            x = columns(rows, categories, numbers, min_count)
            model = LogisticRegression(C=strength, max_iter=300).fit(x[rows.is_train], rows.training_label[rows.is_train])
            last[:] = [(rows, model.predict_proba(x[~rows.is_train])[:, 1])]
        return last[0][1]

    return fit


def small_network(decay: float, rate: float, categories: Sequence[str], numbers: Sequence[str]) -> Fit:
    """alure_spark/training/small_network.py on the columns of the logistic regression."""

    def fit(rows: RankingRows, seed: int) -> np.ndarray:
        x, train = columns(rows, categories, numbers), rows.is_train
        model = fit_small_network(x[train], rows.training_label[train], rows.user[train], seed, weight_decay=decay, learning_rate=rate)
        return model.predict(x[~train])

    return fit


def lightgbm(python: str, share: float = 0.2, **parameters: Any) -> Fit:
    """LightGBM of another environment, whose Python is given."""

    def fit(rows: RankingRows, seed: int) -> np.ndarray:
        codes = [pd.factorize(values, sort=True)[0].astype(np.float64) for values in rows.categories.values()]
        x, train = np.stack([*codes, *rows.numbers.values()], axis=1), rows.is_train
        stopping = held_out(rows, share, seed)[train]
        with tempfile.TemporaryDirectory(prefix="ranking_lightgbm_") as folder:
            given, answer = Path(folder) / "rows.npz", Path(folder) / "predictions.npy"
            arrays = {"x": x[train], "y": rows.training_label[train], "held_out": stopping, "x_test": x[~train]}
            np.savez(given, categorical=np.arange(len(codes)), **arrays)
            script = Path(__file__).with_name("ranking_lightgbm.py")
            subprocess.run([python, str(script), str(given), str(answer), json.dumps(parameters | {"seed": seed})], check=True)
            predicted: np.ndarray = np.load(answer)
        return predicted

    return fit


def column(values: str) -> Fit:
    """One number as the prediction; it says an order and no probability."""
    return lambda rows, seed: rows.numbers[values][~rows.is_train]

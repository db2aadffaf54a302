"""Is a zero-inflated lognormal tower (ZILN) worth it, where a task's label is a number? Worlds whose law is known.

    python -m benchmarks.ranking_values [--worlds "chance and size" ...]

Four models with the same fields, tables and layers, of as many parameters: ZILN; ZILN with pairs (the ranking loss; Pan et al., 6.1); a
regression by squared error; and the probability of a value above 0 times the mean of such values. Each has the same two learning rates to
choose from, by its own validation loss on the first seed, and its mean is calibrated on validation; three seeds, each with its own tastes,
impressions, weights and batches. Gini and error are of impressions that neither training nor validation saw; differences have an interval
over users, the same draws for both. One core, some minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExpertConfig, LossConfig, RankingConfig
from alure_spark.metrics import cluster_bootstrap
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_model
from alure_spark.training.loop import fit
from alure_spark.training.ranking_split import TrainingSplit, split_of
from alure_spark.value_metrics import decile_error, expected_over_observed, fit_factor, normalized_gini, rmse_over_mean
from benchmarks import contract
from benchmarks import ranking_value_worlds as worlds
from benchmarks.ranking_parts import equalized, parameters, vocabulary
from benchmarks.ranking_value_worlds import TASK, Valued

SEEDS = (17, 18, 19)  # others than those with which the bound of sigma was found
RATES = (2e-3, 8e-3)
CONFIG = RankingConfig(epochs=16, patience=4)
BATCH = 256  # impressions
ZILN, PAIRS, SQUARES, PRODUCT = "ZILN", "ZILN and pairs", "squared error", "probability x mean"
MODELS = (ZILN, PAIRS, SQUARES, PRODUCT)
COMPARED = [(ZILN, SQUARES), (ZILN, PRODUCT), (PAIRS, ZILN)]
WORLDS: dict[str, tuple[Callable[[np.random.Generator, int], Valued], int]] = {  # world -> how it is made, and its impressions
    "chance and size": (worlds.chance_and_size, 24_000),
    "chance and size, few impressions": (worlds.chance_and_size, 6_000),
    "chance alone": (worlds.chance_alone, 24_000),
    "nothing (null twin)": (worlds.nothing, 24_000),
}
METRICS = {
    "gini": normalized_gini,
    "rmse": rmse_over_mean,
    "decile_error": decile_error,
    "calibration": expected_over_observed,
}
BySeed = Sequence[np.ndarray]  # (M,) each
Trained = tuple[float, np.ndarray]  # (validation loss of the best epoch, (M,) calibrated expected values of the test part)


def spec_of(model: str) -> RankingSpec:
    """Users and ads, whose vectors meet element by element."""
    fields = {"user": FieldSpec("id", {"size": 1}, group="user", part="user"), "ad": FieldSpec("id", {"size": 1}, group="ad", part="ad")}
    values = (TASK,) if model in (ZILN, PAIRS) else ()
    one = {"one": ExpertConfig("fm", "one")}
    return RankingSpec(fields, {"one": 16}, one, (TASK,), hidden=16, tower=(16,), deviation=CONFIG.deviation, values=values)


def of_distribution(spec: RankingSpec, world: Valued, config: RankingConfig) -> Trained:
    """ZILN, with pairs where the conf says so."""
    loader = MemoryLoader(world.batch(test=False), BATCH, config.seed)
    model = ranking_model.train(ranking_model.new_network(spec, loader, config.seed), loader, config)
    tested = ranking_model.evaluate(model.network, MemoryLoader(world.batch(test=True), 4096, 0))
    return model.validation.losses[TASK], model.factor(TASK) * tested.values[TASK].expected


def of_product(spec: RankingSpec, world: Valued, config: RankingConfig) -> Trained:
    """The calibrated probability of a value above 0 times the mean of such values in the training part."""
    whole = world.batch(test=False)
    values, validation = _labels(whole), _shown(whole).validation
    loader = MemoryLoader(_with_labels(whole, (values > 0).float()), BATCH, config.seed)
    model = ranking_model.train(ranking_model.new_network(spec, loader, config.seed), loader, config)
    test = world.batch(test=True)
    tested = ranking_model.evaluate(model.network, MemoryLoader(_with_labels(test, (_labels(test) > 0).float()), 4096, 0))
    mean = float(values[(values > 0) & ~validation].double().mean())
    validated = mean * ranking_model.probabilities(model.network, model.validation)[:, 0]
    factor = fit_factor(values[validation].double().numpy(), validated)
    return model.validation.losses[TASK], factor * mean * ranking_model.probabilities(model.network, tested)[:, 0]


class SquaredError:
    """A loss of the network: its one output is the value, standardized."""

    def __init__(self, values: Tensor) -> None:
        self.mean, self.deviation = float(values.mean()), float(values.std())

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        each = (logits - (labels - self.mean) / self.deviation) ** 2
        return (each * weight).sum(dim=0) / weight.sum(dim=0)

    def expected(self, network: RankingNetwork, batch: JaggedBatch) -> np.ndarray:
        """(M,) values of at least 0."""
        with torch.no_grad():
            found = [network.eval()(part)[:, 0].double() for part in MemoryLoader(batch, 4096, 0).in_order()]
        values: np.ndarray = (torch.cat(found) * self.deviation + self.mean).clamp(min=0).numpy()
        return values


def of_squares(spec: RankingSpec, world: Valued, config: RankingConfig) -> Trained:
    """Regression by squared error."""
    whole = world.batch(test=False)
    loader, shown = MemoryLoader(whole, BATCH, config.seed), _shown(whole)
    network, validated = ranking_model.drawn_network(spec, config.seed), split_of(whole, validation=True)
    network.loss = loss = SquaredError(shown.labels[TASK][~shown.validation])
    labels = _labels(validated).double().numpy()

    def end_epoch() -> dict[str, float]:
        return {TASK: float(np.mean((loss.expected(network, validated) - labels) ** 2)) / loss.deviation**2}

    fitted = fit(network, TrainingSplit(loader), ranking_model.plan_of(config, loader.steps), end_epoch)
    factor = fit_factor(labels, loss.expected(network, validated))
    return fitted.best_loss, factor * loss.expected(network, world.batch(test=True))


HOW: Mapping[str, Callable[[RankingSpec, Valued, RankingConfig], Trained]] = {
    ZILN: of_distribution, PAIRS: of_distribution, SQUARES: of_squares, PRODUCT: of_product,
}  # fmt: skip


def _shown(batch: JaggedBatch) -> Any:
    assert batch.impressions is not None
    return batch.impressions


def _labels(batch: JaggedBatch) -> Tensor:
    labels: Tensor = _shown(batch).labels[TASK]
    return labels


def _with_labels(batch: JaggedBatch, labels: Tensor) -> JaggedBatch:
    return replace(batch, impressions=replace(_shown(batch), labels={TASK: labels}))


@dataclass(frozen=True)
class Results:
    """Of one model."""

    expected: list[np.ndarray]  # of each seed (M,)
    rate: float
    parameters: int


def results_of(drawns: Sequence[Valued], seeds: Sequence[int]) -> dict[str, Results]:
    """Model -> what it expects of the test parts, at the learning rate that was best on the first seed's validation part."""
    results: dict[str, Results] = {}
    for seed, world in zip(seeds, drawns, strict=True):
        loader = MemoryLoader(world.batch(test=False), BATCH, seed)
        fitted = {name: ranking_model.fitted_spec(spec_of(name), loader, vocabulary(world.drawn)) for name in MODELS}
        for name, spec in equalized(fitted).items():
            kind = LossConfig("pairwise" if name == PAIRS else "bce")
            config = replace(CONFIG, seed=seed, loss=kind)
            rates = [results[name].rate] if name in results else RATES
            tried = {rate: HOW[name](spec, world, replace(config, learning_rate=rate)) for rate in rates}
            rate = min(tried, key=lambda rate: tried[rate][0])
            results.setdefault(name, Results([], rate, parameters(spec))).expected.append(tried[rate][1])
    return results


def rows_of(drawns: Sequence[Valued], results: Mapping[str, Results], resamples: int) -> list[contract.Row]:
    """A row per model, one for the true mean, and one per pair of models."""
    values, truth, users = zip(*(one.tested() for one in drawns), strict=True)
    rows: list[contract.Row] = []
    for name, expected in ({name: its.expected for name, its in results.items()} | {"the true mean": truth}).items():
        row: contract.Row = {"set": "models", "model": name}
        row |= {key: float(np.mean([metric(v, e) for v, e in zip(values, expected, strict=True)])) for key, metric in METRICS.items()}
        if name in results:
            row |= {"correlation": _log_correlation(expected, truth), "rate": results[name].rate, "parameters": results[name].parameters}
        rows.append(row)
    for pair in COMPARED:
        one, other = (results[name].expected for name in pair)
        row = {"set": "differences", "model": pair[0], "minus": pair[1]}
        for key in ("gini", "rmse"):
            row |= difference(key, values, one, other, users, resamples)
        rows.append(row)
    return rows


def _log_correlation(expected: BySeed, truth: BySeed) -> float | None:
    """Of the logs of expected values and true means, mean over the seeds; None where the true mean is one number."""
    if not all(np.ptp(its) > 0 for its in truth):
        return None
    return float(np.mean([np.corrcoef(np.log(e + 1e-9), np.log(t))[0, 1] for e, t in zip(expected, truth, strict=True)]))


def difference(key: str, values: BySeed, one: BySeed, other: BySeed, users: BySeed, resamples: int) -> dict[str, float]:
    """The metric of the one minus that of the other: mean over the seeds, interval over the users of all, and least and most of a seed."""
    metric, borders = METRICS[key], np.cumsum([len(its) for its in values])[:-1]
    first = np.cumsum([0, *(its.max() + 1 for its in users)])

    def each(weights: np.ndarray) -> list[float]:
        parts = np.split(weights, borders)
        return [metric(v, a, w) - metric(v, b, w) for v, a, b, w in zip(values, one, other, parts, strict=True)]

    shifted = np.concatenate([its + begin for its, begin in zip(users, first[:-1], strict=True)])
    interval = cluster_bootstrap(lambda weights: float(np.mean(each(weights))), shifted, resamples)
    found = each(np.ones(len(shifted)))
    ends = {"low": interval.low, "high": interval.high, "min": min(found), "max": max(found)}
    return {key: float(np.mean(found))} | {f"{key}_{name}": end for name, end in ends.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=[*WORLDS])
    parser.add_argument("--share", type=float, default=1.0, help="of the impressions of each world")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    size: dict[str, Any] = {"seeds": options.seeds, "share": options.share, "rates": RATES, "users": worlds.USERS, "ads": worlds.ADS}
    for name in options.worlds:  # a table after each world: a run that is cut short leaves those that it measured
        make, impressions = WORLDS[name]
        count = round(impressions * options.share)
        drawns = [make(np.random.default_rng([seed, list(WORLDS).index(name)]), count) for seed in options.seeds]
        its = rows_of(drawns, results_of(drawns, options.seeds), options.resamples)
        rows = contract.earlier("ranking_values", lambda row, name=name: row["world"] != name, options.results)  # type: ignore[misc]
        positive = float(np.mean([one.drawn.clicks.mean() for one in drawns]))
        rows += [{"world": name, "impressions": count, "positive": positive} | row for row in its]
        rows.sort(key=lambda row: list(WORLDS).index(row["world"]))
        contract.publish("ranking_values", size, rows, {}, options.results)


if __name__ == "__main__":
    main()

"""What exposure fields and weights of repeats (REW) do to the scores of repeats and of first exposures: the second half of ranking_losses.

Enters: a world in which ads tire or do not, or ebnerd's articles in view. Leaves: rows with observed and predicted rates by how often the
user was shown the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.clock import DAY_MS
from alure_spark.config import RankingConfig, RepeatConfig
from alure_spark.metrics import cluster_bootstrap, normalized_entropy
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_model
from alure_spark.training.ranking_repeats import ReweighedRepeats
from benchmarks import contract, ranking_sets
from benchmarks import ranking_loss_worlds as worlds
from benchmarks.ranking_methods import FLAT, Shape, ranking_network
from benchmarks.ranking_parts import cross_entropies, equalized, gain, parameters, spec_of, vocabulary
from benchmarks.ranking_quality import FEW
from benchmarks.ranking_sets import RankingRows
from benchmarks.ranking_worlds import Drawn, tested

CONFIG = RankingConfig(epochs=16, patience=3, batch_users=128)
RATES = (2e-3, 8e-3)
USERS = 3000
LAST = 6  # exposures of a higher number count as this one
COUNT, SINCE = "exposures", "since_exposure"
REW = RepeatConfig(COUNT, SINCE, debias=True)
AD = {"ad": FieldSpec("id", {"size": 1}, group="ad", part="ad")}
STEPS = {"kind": "quantile", "steps": 16}
SEEN = {
    COUNT: FieldSpec("numeral_systems", STEPS, history=f"{worlds.STREAM}.decayed_same.ad", days=worlds.HALF_LIFE_DAYS),
    SINCE: FieldSpec("standardized", history=f"{worlds.STREAM}.days_since_same.ad"),
}
OF_USER = {"shown_before": FieldSpec("numeral_systems", {"kind": "integer"}, history=f"{worlds.STREAM}.count")}


@dataclass(frozen=True)
class Model:
    fields: bool  # whether it reads how often and how long ago the same was shown
    repeats: RepeatConfig | None = None  # weights of repeats


MODELS = {
    "neither": Model(False),
    "fields": Model(True),
    "REW": Model(False, REW),
    "fields and REW": Model(True, REW),
    "fields and REW, the number alone": Model(True, replace(REW, alpha=1.0)),
    "fields and REW, not debiased": Model(True, replace(REW, debias=False)),
    "fields and REW, by the letter": Model(True, replace(REW, literal=True)),
}


@dataclass(frozen=True)
class Scored:
    """Impressions of the test part of one seed: (M,) each."""

    predicted: np.ndarray  # as it is served: calibrated on the validation split, in the worlds
    raw: np.ndarray  # before that
    label: np.ndarray
    number: np.ndarray  # 1 for a first exposure, 2 for the next one, LAST for all of a higher number
    group: np.ndarray  # int64: whose


def of_repeats(options: argparse.Namespace) -> list[contract.Row]:
    """One row per model, in the world and in its null twin."""
    return [row for null in (False, True) for row in _of_world(null, options)]


def _of_world(null: bool, options: argparse.Namespace) -> list[contract.Row]:
    users = round(USERS * options.share)
    drawns = [worlds.repeats(np.random.default_rng([seed, null]), users, null) for seed in options.seeds]
    scored: dict[str, list[Scored]] = {}
    chosen: dict[bool, float] = {}  # whether it has the fields -> its rate; weights of repeats are no reason to learn at another one
    size: dict[str, int] = {}
    positive: dict[str, list[float]] = {}
    for seed, one in zip(options.seeds, drawns, strict=True):
        loader = MemoryLoader(worlds.exposed(one.batch(test=False)), CONFIG.batch_users, seed)
        fits = {name: ranking_model.fitted_spec(_spec(model.fields), loader, vocabulary(one)) for name, model in MODELS.items()}
        for name, spec in equalized(fits).items():
            model = MODELS[name]
            factors = ReweighedRepeats.fitted(fits["fields"], loader, model.repeats) if model.repeats else None
            positive.setdefault(name, []).append(factors.positive["click"] if factors else 1.0)
            tried = {rate: _trained(one, spec, factors, rate, seed) for rate in _rates(chosen.get(model.fields))}
            chosen[model.fields] = min(tried, key=lambda rate: tried[rate][1])
            scored.setdefault(name, []).append(tried[chosen[model.fields]][0])
            size[name] = parameters(spec)
    best = float(np.mean([normalized_entropy(*tested(one)[:2]) for one in drawns]))
    rows = []
    for name, its in scored.items():
        row: contract.Row = {"set": "repeats", "null": null, "model": name, "ne_best": best, "rate": chosen[MODELS[name].fields]}
        row |= {"parameters": size[name], "positive": float(np.mean(positive[name]))}
        rows.append(row | summary(its, scored["neither"], scored["fields"], options.resamples))
    return rows


def _rates(known: float | None) -> tuple[float, ...]:
    return RATES if known is None else (known,)


def _spec(fields: bool) -> RankingSpec:
    """Both kinds know of how many impressions a user had; one also knows of those of the same ad."""
    return spec_of(AD | OF_USER | (SEEN if fields else {}))


def _trained(one: Drawn, spec: RankingSpec, weights: ReweighedRepeats | None, rate: float, seed: int) -> tuple[Scored, float]:
    """(the test part, the cross entropy of the validation split)."""
    learnt = worlds.exposed(one.batch(test=False))
    loader = MemoryLoader(weights.weighed(learnt) if weights else learnt, CONFIG.batch_users, seed)
    network = ranking_model.new_network(spec, loader, seed)
    model = ranking_model.train(network, loader, replace(CONFIG, learning_rate=rate, seed=seed))
    evaluation = ranking_model.evaluate(model.network, MemoryLoader(worlds.exposed(one.batch(test=True)), 1024, seed))
    users = slice(sum(one.parts[:2]), None)
    number = np.minimum(worlds.exposure_numbers(one)[users], LAST).ravel()
    labels, _, groups = tested(one)
    predicted, raw = ranking_model.probabilities(model.network, evaluation)[:, 0], 1 / (1 + np.exp(-evaluation.logits[:, 0]))
    return Scored(predicted, raw, labels, number, groups), model.validation.losses["click"]


def summary(its: Sequence[Scored], neither: Sequence[Scored], fields: Sequence[Scored], resamples: int) -> contract.Row:
    """NE and its gain over the model with neither; calibration of first exposures and of repeats, before and after it was served; rates by
    the number of the exposure, before."""
    losses = [[cross_entropies(one.label, one.predicted) for one in side] for side in (its, neither)]
    row: contract.Row = {"ne": float(np.mean([normalized_entropy(one.label, one.predicted) for one in its]))}
    row |= gain(losses[0], losses[1], [one.group for one in its], resamples)
    one, like = joined(its), joined(fields)
    for name, mask in (("first", one.number == 1), ("repeats", one.number > 1)):
        for when, values, others in (("raw", one.raw, like.raw), ("served", one.predicted, like.predicted)):
            for what, beside in (("calibration", one.label), ("score", others)):
                row |= _ratio(f"{what}_{name}_{when}", values * mask, beside * mask, one.group, resamples)
    of_number = [one.number == number for number in range(1, LAST + 1)]
    row["impressions"] = [int(mask.sum()) for mask in of_number]
    for name, values in (("observed", one.label), ("predicted", one.raw)):
        row[name] = [float(values[mask].mean()) if mask.any() else None for mask in of_number]
    return row


def joined(parts: Sequence[Scored]) -> Scored:
    """All seeds as one, with groups of their own."""
    first = np.cumsum([0, *(one.group.max() + 1 for one in parts)])
    columns = {name: np.concatenate([getattr(one, name) for one in parts]) for name in ("predicted", "raw", "label", "number")}
    return Scored(**columns, group=np.concatenate([one.group + begin for one, begin in zip(parts, first[:-1], strict=True)]))


def _ratio(name: str, above: np.ndarray, below: np.ndarray, groups: np.ndarray, resamples: int) -> contract.Row:
    """Sum of above (M,) / sum of below (M,), and its interval over the groups."""

    def value(weights: np.ndarray) -> float:
        return float(weights @ above / (weights @ below))

    interval = cluster_bootstrap(value, groups, resamples)
    return {name: value(np.ones(len(groups))), f"{name}_low": interval.low, f"{name}_high": interval.high}


OWN = ("own_views", "own_clicks")  # of ebnerd: what says that a reader was shown an article before
SINCE_VIEW = "days_since_own_view"


def of_ebnerd(options: argparse.Namespace) -> list[contract.Row]:
    """One row per model: the mean of the seeds' probabilities, by how often the reader had the article in view."""
    rows = with_days_since(ranking_sets.ebnerd(options.data))
    tested_rows = ~rows.is_train
    number = np.minimum(1 + rows.numbers["own_views"][tested_rows].astype(np.int64), LAST)
    scored: dict[str, list[Scored]] = {}
    numbers = [name for name in rows.numbers if name != SINCE_VIEW]
    plain = [name for name in numbers if name not in OWN]
    group = np.unique(rows.user[tested_rows], return_inverse=True)[1]
    for name, model in MODELS.items():
        read = [*numbers, SINCE_VIEW] if model.fields else plain
        spec = {"tables": {"one": 4}, "hidden": 16, "tower": (), "linear": True, "dropout": 0.3}
        shape = Shape(["device"], (), read, spec=spec, config=replace(FEW, batch_users=4))
        fit = ranking_network(shape, change=_reweighed(model.repeats))
        predicted = np.mean([fit(rows, seed) for seed in options.seeds], axis=0)
        scored[name] = [Scored(predicted, predicted, rows.label[tested_rows], number, group)]
    beside = scored["neither"], scored["fields"]
    return [{"set": "ebnerd", "model": name} | summary(its, *beside, options.resamples) for name, its in scored.items()]


def _reweighed(config: RepeatConfig | None) -> Callable[[JaggedBatch], JaggedBatch] | None:
    """REW by the numbers of a batch of ebnerd."""
    if config is None:
        return None
    own = replace(config, count="own_views", days_since=SINCE_VIEW)
    spec = RankingSpec(
        {name: FieldSpec("numbers", {"numbers": 1}) for name in (own.count, own.days_since)},
        tables={"one": 1}, experts={"one": FLAT}, tasks=(ranking_sets.TASK,),
    )  # fmt: skip

    def change(batch: JaggedBatch) -> JaggedBatch:
        return ReweighedRepeats.fitted(spec, MemoryLoader(batch, 256, 0), own).weighed(batch)

    return change


def with_days_since(rows: RankingRows) -> RankingRows:
    """The rows with the days since the reader last had the article in view, NaN before the first time."""
    frame = pd.DataFrame({"user": rows.user, "article": rows.categories["article"], "time_ms": rows.time_ms})
    times = frame.drop_duplicates().sort_values("time_ms", kind="stable")
    times["before"] = times.groupby(["user", "article"])["time_ms"].shift()
    before = frame.merge(times, on=["user", "article", "time_ms"], how="left")["before"].to_numpy(np.float64)
    return replace(rows, numbers=dict(rows.numbers) | {SINCE_VIEW: (rows.time_ms - before) / DAY_MS})

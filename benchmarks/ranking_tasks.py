"""Which way of sharing tables between tasks is best, and where? Worlds of two tasks, each with a null twin (Pan et al., section 5).

    python -m benchmarks.ranking_tasks [--worlds contradictory helpful ...]

Every scheme has as many parameters and as many candidates, of which its validation loss on the first seed chooses: two learning rates;
where a task is auxiliary four, of stem_al two of them with each of two weights of the auxiliary loss. Three seeds, there six, because
trainings differ more; each has its own users, ads, weights and batches. gain = 1 - NE with / NE without, per task, on impressions that
neither training nor validation saw, with an interval over users, the same draws for both. One core, about twenty minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alure_spark.analysis.entanglement import entanglement
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExpertConfig, RankingConfig
from alure_spark.metrics import cluster_bootstrap, normalized_entropy
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_model
from benchmarks import contract
from benchmarks import ranking_task_worlds as worlds
from benchmarks.ranking_parts import cross_entropies, equalized, gain, parameters, vocabulary
from benchmarks.ranking_task_worlds import FIRST, SECOND
from benchmarks.ranking_worlds import tested

SEEDS = (7, 8, 9)
FRESH = (21, 22, 23, 24, 25, 26)  # of the worlds with an auxiliary task; stem_al was developed on others (docs/decisions.md)
RATES = (2e-3, 8e-3)
MORE_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
WEIGHTS = (1.0, 0.1)  # of the auxiliary loss
CONFIG = RankingConfig(epochs=16, patience=4)
BATCH = 256  # impressions
NUMBERS = 24  # of a user's or an ad's rows, all tables of a scheme together
BINS = 25
INNER: dict[str, Any] = {"kind": "ipnn", "options": {"with_vectors": False}}  # one number per table: how near user and ad are in it
ELEMENTWISE: dict[str, Any] = {"kind": "fm"}  # a number per dimension
SHARING = ("shared_bottom", "mmoe", "ple")
SINGLE = "single task"
Losses = Sequence[Sequence[np.ndarray]]  # (with, without) -> seed -> (M,)
FIELDS = {"user": FieldSpec("id", {"size": 1}, group="user", part="user"), "ad": FieldSpec("id", {"size": 1}, group="ad", part="ad")}


def widths(scheme: str, tasks: int, numbers: int) -> dict[str, int]:
    """The tables of the conf whose copies for a scheme of so many tasks have so many numbers per row together. AME's are 4 : 2 : 1."""
    if scheme == "ame":
        middle, small = round(numbers * 2 / 7), round(numbers / 7)
        return {"large": numbers - middle - small, "middle": middle, "small": small}
    copies = {"stem": tasks + 1, "stem_al": tasks}.get(scheme, 1)
    return {"one": numbers // copies}


def schemed(base: RankingSpec, scheme: str, expert: Mapping[str, Any], tasks: tuple[str, ...], numbers: int) -> RankingSpec:
    """The base's fields and layers, with three experts, or STEM-AL's two. The first task is the main one of STEM-AL."""
    tables = widths(scheme, len(tasks), numbers)
    several = len(tables) > 1 or scheme in ("ple", "stem", "stem_al")  # experts that the tables or the scheme's copies make
    names = list(tables) if several else [f"expert_{number}" for number in range(len(tasks) + 1)]
    experts = {name: ExpertConfig(expert["kind"], name if name in tables else "one", expert.get("options", {})) for name in names}
    main = tasks[0] if scheme == "stem_al" else ""
    return replace(base, tables=tables, experts=experts, tasks=tasks, scheme=scheme, main_task=main)


def spec_of(scheme: str, expert: Mapping[str, Any], tasks: tuple[str, ...] = (FIRST, SECOND)) -> RankingSpec:
    """The scheme's model of users and ads."""
    one = {"one": ExpertConfig(expert["kind"], "one", expert.get("options", {}))}
    base = RankingSpec(FIELDS, {"one": NUMBERS}, one, tasks, hidden=16, tower=(16,), deviation=CONFIG.deviation)
    return schemed(base, scheme, expert, tasks, NUMBERS)


@dataclass(frozen=True)
class Candidate:
    learning_rate: float
    auxiliary_weight: float = 1.0  # of stem_al


@dataclass(frozen=True)
class World:
    """What is planted, how vectors meet, and which schemes are compared."""

    make: Callable[[np.random.Generator, int, bool], worlds.Tasks]
    pairs: Sequence[tuple[str, str]]  # (with, without)
    expert: Mapping[str, Any] = field(default_factory=lambda: INNER)
    tasks: tuple[str, ...] = (FIRST, SECOND)  # that are compared
    impressions: int = 24_000
    seeds: tuple[int, ...] = SEEDS

    def specs(self) -> dict[str, RankingSpec]:
        """Model -> its spec, before its encodings are fitted."""
        names = dict.fromkeys(name for pair in self.pairs for name in pair)
        alone = spec_of("shared_bottom", self.expert, (FIRST,))
        return {name: alone if name == SINGLE else spec_of(name, self.expert) for name in names}

    def candidates(self, name: str) -> list[Candidate]:
        """Of a model, as many for each: what stem_al has in weights, the others have in learning rates."""
        if SINGLE not in self.specs():
            return [Candidate(rate) for rate in RATES]
        if name == "stem_al":
            return [Candidate(rate, weight) for rate in RATES for weight in WEIGHTS]
        return [Candidate(rate) for rate in MORE_RATES]


DISENTANGLED = [(ours, other) for ours in ("stem", "ame") for other in SHARING]
AUXILIARY = [("stem_al", SINGLE), ("stem_al", "shared_bottom"), ("shared_bottom", SINGLE)]
WORLDS = {
    "contradictory": World(worlds.contradictory, DISENTANGLED),
    "contradictory, element-wise": World(worlds.contradictory, DISENTANGLED, ELEMENTWISE),
    "large and small": World(worlds.large_and_small, [("ame", other) for other in SHARING]),
    "helpful": World(worlds.helpful, AUXILIARY, tasks=(FIRST,), seeds=FRESH),
    "harmful": World(worlds.harmful, AUXILIARY, tasks=(FIRST,), seeds=FRESH),
}
ENTANGLED = "contradictory"  # the world of the picture


@dataclass(frozen=True)
class Result:
    """A model on the test part of one seed's world."""

    losses: Mapping[str, np.ndarray]  # task -> (M,) cross entropy, nats
    entropies: Mapping[str, float]  # task -> NE
    validation: float  # loss of its best epoch, of the tasks that it serves
    parameters: int
    network: RankingNetwork


def trained(spec: RankingSpec, drawn: worlds.Tasks, one: Candidate, seed: int) -> Result:
    """The spec's model after training on the world."""
    loader = MemoryLoader(worlds.batch(drawn, test=False), BATCH, seed)
    network = ranking_model.new_network(spec, loader, seed)
    config = replace(CONFIG, learning_rate=one.learning_rate, auxiliary_weight=one.auxiliary_weight, seed=seed)
    model = ranking_model.train(network, loader, config)
    evaluation = ranking_model.evaluate(model.network, MemoryLoader(worlds.batch(drawn, test=True), 4096, seed))
    predicted = dict(zip(spec.tasks, ranking_model.probabilities(model.network, evaluation).T, strict=True))
    labels = {task: tested(drawn[task])[0] for task in spec.tasks}
    return Result(
        {task: cross_entropies(labels[task], p) for task, p in predicted.items()},
        {task: normalized_entropy(labels[task], p) for task, p in predicted.items()},
        sum(model.validation.losses[task] for task in spec.served().tasks),
        parameters(spec),
        model.network,
    )


def best(spec: RankingSpec, drawn: worlds.Tasks, seed: int, candidates: Sequence[Candidate]) -> tuple[Candidate, Result]:
    """(The candidate with the least validation loss, what it gave)."""
    tried = {one: trained(spec, drawn, one, seed) for one in candidates}
    chosen = min(tried, key=lambda one: tried[one].validation)
    return chosen, tried[chosen]


def results_of(world: World, drawns: Sequence[worlds.Tasks], seeds: Sequence[int]) -> tuple[dict[str, list[Result]], dict[str, Candidate]]:
    """(Model -> its result per seed, model -> the candidate that was best for it on the first seed's validation part)."""
    results: dict[str, list[Result]] = {name: [] for name in world.specs()}
    chosen: dict[str, Candidate] = {}
    for seed, drawn in zip(seeds, drawns, strict=True):
        loader = MemoryLoader(worlds.batch(drawn, test=False), BATCH, seed)
        known = vocabulary(drawn[FIRST])
        fitted = {name: ranking_model.fitted_spec(spec, loader, known) for name, spec in world.specs().items()}
        for name, spec in equalized(fitted).items():
            chosen[name], result = best(spec, drawn, seed, [chosen[name]] if name in chosen else world.candidates(name))
            results[name].append(result)
    return results, chosen


def measured(world: World, null: bool, seeds: Sequence[int], impressions: int, resamples: int) -> list[contract.Row]:
    """One row per pair of models and task; one more per pair for the difference of the tasks' gains."""
    drawns = [world.make(np.random.default_rng([seed, null]), impressions, null) for seed in seeds]
    results, chosen = results_of(world, drawns, seeds)
    groups = [tested(drawn[FIRST])[2] for drawn in drawns]
    rows: list[contract.Row] = []
    for pair in world.pairs:
        sides = dict(zip(("with", "without"), pair, strict=True))
        losses: dict[str, Losses] = {}
        for task in world.tasks:
            row: contract.Row = {**sides, "task": task, "rate": float(np.mean([drawn[task].truth.mean() for drawn in drawns]))}
            row["ne_best"] = float(np.mean([normalized_entropy(*tested(drawn[task])[:2]) for drawn in drawns]))
            for side, name in sides.items():
                its = results[name]
                row |= {f"ne_{side}": float(np.mean([one.entropies[task] for one in its]))}
                row |= {f"parameters_{side}": its[0].parameters, f"rate_{side}": chosen[name].learning_rate}
                row |= {"auxiliary_weight": chosen[name].auxiliary_weight} if name == "stem_al" else {}
            with_, without = losses[task] = tuple([one.losses[task] for one in results[name]] for name in pair)
            rows.append(row | gain(with_, without, groups, resamples))
        if len(losses) > 1:
            gap = difference(losses[SECOND], losses[FIRST], groups, resamples)
            rows.append({**sides, "task": f"{SECOND} minus {FIRST}", **gap})
    return rows


def difference(one: Losses, other: Losses, groups: Sequence[np.ndarray], resamples: int) -> dict[str, float]:
    """Gain in the one task minus gain in the other, mean over the seeds, and its interval over the groups."""
    borders = np.cumsum([len(losses) for losses in one[0]])[:-1]
    first = np.cumsum([0, *(its.max() + 1 for its in groups)])

    def minus(weights: np.ndarray) -> float:
        parts = np.split(weights, borders)
        both = [
            np.mean([1 - float(w @ b) / float(w @ a) for w, b, a in zip(parts, with_, without, strict=True)])
            for with_, without in (one, other)
        ]
        return float(both[0] - both[1])

    shifted = np.concatenate([its + begin for its, begin in zip(groups, first[:-1], strict=True)])
    interval = cluster_bootstrap(minus, shifted, resamples)
    return {"gain": minus(np.ones(len(shifted))), "low": interval.low, "high": interval.high}


def entangled(seed: int, impressions: int) -> list[contract.Row]:
    """Contradictory pairs of the test part under each embedding: how many lie in each of BINS steps of distance, and their mean."""
    world = replace(WORLDS[ENTANGLED], pairs=[("ple", "stem")])
    drawn = world.make(np.random.default_rng([seed, False]), impressions, False)
    loader = MemoryLoader(worlds.batch(drawn, test=False), BATCH, seed)
    alone = {task: spec_of("shared_bottom", INNER, (task,)) for task in (FIRST, SECOND)}
    fitted = {name: ranking_model.fitted_spec(spec, loader, vocabulary(drawn[FIRST])) for name, spec in (alone | world.specs()).items()}
    models = {name: best(spec, drawn, seed, world.candidates(name))[1].network for name, spec in equalized(fitted).items()}
    pairs = list(MemoryLoader(worlds.batch(drawn, test=True), 4096, seed).in_order())
    named = {"PLE": models["ple"], "STEM": models["stem"]}
    found = entanglement((FIRST, SECOND), [models[FIRST], models[SECOND]], named, pairs)
    return [
        {
            "set": "entanglement", "seed": seed, "model": model, "embedding": name, "pairs": found.pairs,
            "contradictory": found.contradictory, "distance": float(its.mean()), "counts": np.histogram(its, BINS, (0, 100))[0].tolist(),
        }
        for model, embeddings in found.distances.items()
        for name, its in embeddings.items()
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=[*WORLDS])
    parser.add_argument("--seeds", nargs="+", type=int, help="in the place of each world's own")
    parser.add_argument("--share", type=float, default=1.0, help="of the impressions of each world")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    seeds = {name: options.seeds or list(world.seeds) for name, world in WORLDS.items()}
    size: dict[str, Any] = {"seeds": seeds, "share": options.share, "rates": RATES, "numbers": NUMBERS}
    size |= {"impressions": {name: world.impressions for name, world in WORLDS.items()}, "users": worlds.USERS, "ads": worlds.ADS}
    for name in options.worlds:  # a table after each world: a run that is cut short leaves those that it measured
        world = WORLDS[name]
        count = round(world.impressions * options.share)
        rows = contract.earlier("ranking_tasks", lambda row, name=name: row.get("world") != name, options.results)  # type: ignore[misc]
        for null in (False, True):
            its = measured(world, null, seeds[name], count, options.resamples)
            rows += [{"set": "schemes", "world": name, "null": null} | row for row in its]
        if name == ENTANGLED:
            rows = [row for row in rows if row["set"] != "entanglement"]
            rows += [row for seed in seeds[name] for row in entangled(seed, count)]
        rows.sort(key=lambda row: list(WORLDS).index(row["world"]) if "world" in row else len(WORLDS))
        contract.publish("ranking_tasks", size, rows, {}, options.results)


if __name__ == "__main__":
    main()

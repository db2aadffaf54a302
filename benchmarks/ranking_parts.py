"""Does each part of the ranking model matter where it must? Worlds with one planted effect each (Pan et al., sections 3 and 4).

    python -m benchmarks.ranking_parts [--worlds interval ordinal ...]

In each world the model with the part is trained beside models without it, of as many parameters, at the learning rate that is best on
validation for each of them, with three seeds: each draws its own rows, weights, batches. Neither training nor validation saw the test part:
gain = 1 - NE with / NE without, with an interval over its users or ads. The null twin is a world in which the part must not help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from alure_spark.analysis.embedding_spectrum import information_abundance
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import ExpertConfig, RankingConfig, SequenceConfig
from alure_spark.metrics import cluster_bootstrap, normalized_entropy
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_model
from benchmarks import contract
from benchmarks import ranking_worlds as worlds

SEEDS = (7, 8, 9)
RATES = (2e-3, 8e-3)  # among which each model's learning rate is chosen on the validation split of the first seed
CONFIG = RankingConfig(epochs=16, patience=3)
TOLERANCE = 0.02  # share by which the parameters of models that are compared may differ
BASES = (2, 4, 16, 3, 10)


@dataclass(frozen=True)
class World:
    """What is planted, the models, and which of them are compared."""

    make: Callable[[np.random.Generator, int, bool], worlds.Drawn]  # (random, users, whether it is the null twin)
    specs: Mapping[str, RankingSpec]  # their encodings are fitted later
    pairs: Sequence[tuple[str, str]]  # (with the part, without it)
    users: int
    batch_users: int = 128
    epochs: int = CONFIG.epochs  # at most
    rates: Sequence[float] = RATES  # among which each model's is chosen
    equal: Sequence[Sequence[str]] = ()  # models of as many parameters; empty: all of them
    spectrum: Sequence[str] = ()  # fields whose information abundance is measured


def spec_of(
    fields: Mapping[str, FieldSpec],
    tables: Mapping[str, int] | None = None,
    experts: Mapping[str, ExpertConfig] | None = None,
    sequences: Mapping[str, SequenceConfig] | None = None,
) -> RankingSpec:
    """A model of clicks; what is not given is as RankingConfig has it."""
    return RankingSpec(
        fields=fields,
        tables=tables or CONFIG.tables,
        experts=experts or CONFIG.experts,
        tasks=("click",),
        sequences=sequences or {},
        hidden=CONFIG.hidden,
        tower=CONFIG.tower,
        deviation=CONFIG.deviation,
    )


def _with_history(position: bool = True, interval: bool = True, read: bool = True) -> RankingSpec:
    fields = {
        "category": FieldSpec("id", {"size": 1}, group="ad", part="ad"),
        "clicks": FieldSpec("numeral_systems", {"kind": "integer"}, history="click.count"),
    }
    own = SequenceConfig("click", "category", "category", events=20, position=position, interval=interval)
    return spec_of(fields, sequences={"clicked": own} if read else {})


def _of_graph(similarity: bool) -> RankingSpec:
    own = SequenceConfig("click", "category", "category", events=20)
    fields = {"category": FieldSpec("id", {"size": 1}, group="ad", part="ad")}
    if similarity:
        fields["similarity"] = FieldSpec("numeral_systems", interacts=False)
    return spec_of(fields, sequences={"clicked": own})


def _of_numbers(encoding: str, **settings: Any) -> RankingSpec:
    return spec_of({f"{'id' if encoding == 'id' else 'number'}_{name}": FieldSpec(encoding, settings) for name in "abcd"})


def _buckets(steps: int) -> RankingSpec:
    return _of_numbers("numeral_systems", kind="quantile", steps=steps, bases=[steps])


def _of_look(**settings: Any) -> RankingSpec:
    return spec_of({"look": FieldSpec("hash_id", {"numbers": worlds.LOOK} | settings)})


def _of_tables(count: int, dimension: int) -> RankingSpec:
    """So many tables, each with an expert of inner products."""
    names = [f"table_{number}" for number in range(count)]
    fields = {name: FieldSpec("id", {"size": 1}) for name in COLLAPSING}
    return spec_of(fields, dict.fromkeys(names, dimension), {name: ExpertConfig("ipnn", name) for name in names})


def _of_groups(kind: str) -> RankingSpec:
    groups = {f"{name}_{letter}": name for name in worlds.GROUPS for letter in "ab"}
    parts = {"ad": "ad"}  # all other groups are of the user's part
    fields = {field: FieldSpec("id", {"size": 1}, group=name, part=parts.get(name, "user")) for field, name in groups.items()}
    return spec_of(fields, {"only": 8}, {"only": ExpertConfig(kind, "only")})


def _of_surfaces(scenario: str) -> RankingSpec:
    """Towers of single surfaces, or one that reads the surface as it reads other fields."""
    fields = {name: FieldSpec("id", {"size": 1}, group=name) for name in ("surface", "user_kind")}
    fields["ad_kind"] = FieldSpec("id", {"size": 1}, group="ad_kind", part="ad")
    return replace(spec_of(fields), scenario=scenario)


def _first(models: Mapping[str, RankingSpec]) -> list[tuple[str, str]]:
    with_part, *others = models
    return [(with_part, other) for other in others]


COLLAPSING = [f"field_{number}" for number in range(worlds.MEETING + len(worlds.FEW))]
TARGETS = {"interval": _with_history(), "position only": _with_history(interval=False)}
MATCHES = {"history, for the target": _with_history(), "count of the history": _with_history(read=False)}
RECENT = {"target and time": _with_history(), "target only (as DIN)": _with_history(position=False, interval=False)}
NUMBERS = {
    "numeral systems": _of_numbers("numeral_systems", kind="integer"),
    "an id per value": _of_numbers("id", size=1),
    **{f"{steps} buckets": _buckets(steps) for steps in (10, 30, 100)},
    "numeral systems of 30 steps": _of_numbers("numeral_systems", steps=30),
}
LOOKS = {
    "HashID": _of_look(),
    "ids": spec_of({"creative_id": FieldSpec("id", {"size": 1})}),
    "HashID, bases 3 and 10": _of_look(bases=(3, 10)),
}
GRAPHS = {"similarity": _of_graph(True), "history, for the target": _of_graph(False)}
EXPERTS = {"GwPFM": _of_groups("gwpfm"), "FM": _of_groups("fm"), "FwFM": _of_groups("fwfm")}
SURFACES = {"towers per surface": _of_surfaces("surface"), "one tower": _of_surfaces("")}
TABLES = {
    "4 numbers": _of_tables(1, 4),
    "4 tables of 4": _of_tables(4, 4),
    "1 table of 16": _of_tables(1, 16),
    "16 tables of 4": _of_tables(16, 4),
    "1 table of 64": _of_tables(1, 64),
}
GROWTH = [
    ("4 tables of 4", "1 table of 16"), ("16 tables of 4", "1 table of 64"),
    ("1 table of 16", "4 numbers"), ("1 table of 64", "1 table of 16"),
    ("4 tables of 4", "4 numbers"), ("16 tables of 4", "4 tables of 4"),
]  # fmt: skip
WORLDS = {
    "interval": World(worlds.interval, TARGETS, _first(TARGETS), 4000),
    "category_match": World(worlds.category_match, MATCHES, _first(MATCHES), 4000),
    "recent_match": World(worlds.recent_match, RECENT, _first(RECENT), 4000),
    "ordinal": World(worlds.ordinal, NUMBERS, [*_first(NUMBERS), ("numeral systems of 30 steps", "30 buckets")], 4000),
    "waves": World(worlds.waves, NUMBERS, [*_first(NUMBERS), ("numeral systems of 30 steps", "30 buckets")], 4000),
    "look_alike": World(worlds.look_alike, LOOKS, _first(LOOKS), 8000),
    "neighbours": World(worlds.neighbours, GRAPHS, _first(GRAPHS), 4000),
    "opposite_groups": World(worlds.opposite_groups, EXPERTS, [*_first(EXPERTS), ("FwFM", "FM")], 20000, 256),
    "opposite_scenarios": World(worlds.opposite_scenarios, SURFACES, _first(SURFACES), 20000, 256),
    "collapse": World(
        worlds.collapse, TABLES, GROWTH, 20000, 100, epochs=4, rates=(4e-3, 8e-3, 16e-3, 32e-3),
        equal=[GROWTH[0], GROWTH[1]], spectrum=COLLAPSING[: worlds.MEETING],
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A model on the test part of one seed's world."""

    probabilities: np.ndarray  # (M,) float64
    validation: float  # loss of its best epoch
    parameters: int
    spread: float | None = None  # of the scores of creatives of one ad: their deviation / their mean, mean over the ads
    abundance: float | None = None  # information abundance of a field's rows, all tables side by side; mean over the fields


def equalized(specs: Mapping[str, RankingSpec], groups: Sequence[Sequence[str]] = ()) -> dict[str, RankingSpec]:
    """The fitted specs, the smaller ones with a wider layer after the experts, until all of a group have as many parameters as its largest.

    Raises ValueError where one cannot come within TOLERANCE of it.
    """
    result = dict(specs)
    for group in groups or [list(specs)]:
        counts = {name: parameters(specs[name]) for name in group}
        largest = max(counts.values())
        for name, count in counts.items():
            spec = specs[name]
            per_number = parameters(replace(spec, hidden=spec.hidden + 1)) - count  # of that layer; the count is linear in it
            result[name] = replace(spec, hidden=spec.hidden + round((largest - count) / per_number))
            if abs(parameters(result[name]) / largest - 1) > TOLERANCE:
                raise ValueError(f"'{name}' has {parameters(result[name]):,} parameters, the largest model it is compared with {largest:,}")
    return result


def parameters(spec: RankingSpec) -> int:
    with torch.random.fork_rng(devices=[]):
        return sum(RankingNetwork(spec).parameter_counts().values())


def vocabulary(drawn: worlds.Drawn) -> Vocabulary:
    """The rows of every categorical field as they are."""
    highest = {name: int(rows.max()) for name, rows in drawn.rows.items()}
    if drawn.events:
        highest["category"] = max(highest["category"], int(drawn.events["category_id"].max()))
    known = {name: np.arange(1, rows + 1) for name, rows in highest.items()}
    return Vocabulary({name: (rows, rows) for name, rows in known.items()})


def trained(world: World, spec: RankingSpec, drawn: worlds.Drawn, rate: float, seed: int) -> Result:
    """The spec's model after training on the world."""
    loader = MemoryLoader(drawn.batch(test=False), world.batch_users, seed)
    network = ranking_model.new_network(spec, loader, seed)
    model = ranking_model.train(network, loader, replace(CONFIG, epochs=world.epochs, learning_rate=rate, seed=seed))

    def score(one: worlds.Drawn) -> np.ndarray:
        evaluation = ranking_model.evaluate(model.network, MemoryLoader(one.batch(test=True), 4096, seed))
        return ranking_model.probabilities(model.network, evaluation)[:, 0]

    spread = None if drawn.alike is None else worlds.spread_of(score(drawn.alike).reshape(drawn.alike.truth.shape))
    return Result(score(drawn), model.validation.losses["click"], parameters(spec), spread, abundance(model.network, world.spectrum))


def abundance(network: RankingNetwork, names: Sequence[str]) -> float | None:
    """Mean information abundance of the fields' rows, all tables side by side."""
    if not names:
        return None
    rows = torch.cat(list(network.tables.parameters()), dim=1).detach().numpy()
    places = [network.spec.coded.index(name) for name in names]
    return float(np.mean([information_abundance(rows[network.lookup.begins[at] :][: network.lookup.rows[at]]) for at in places]))


def measured(world: World, null: bool, seeds: Sequence[int], users: int, resamples: int) -> list[contract.Row]:
    """One row per pair of models."""
    results: dict[str, list[Result]] = {name: [] for name in world.specs}
    rates: dict[str, float] = {}
    drawns = [world.make(np.random.default_rng([seed, null]), users, null) for seed in seeds]
    for seed, drawn in zip(seeds, drawns, strict=True):
        loader = MemoryLoader(drawn.batch(test=False), world.batch_users, seed)
        fitted = {name: ranking_model.fitted_spec(spec, loader, vocabulary(drawn)) for name, spec in world.specs.items()}
        for name, spec in equalized(fitted, world.equal).items():
            tried = {rate: trained(world, spec, drawn, rate, seed) for rate in ([rates[name]] if name in rates else world.rates)}
            rates[name] = min(tried, key=lambda rate: tried[rate].validation)
            results[name].append(tried[rates[name]])
    return [_row(world, drawns, pair, results, rates, resamples) for pair in world.pairs]


def _row(
    world: World, drawns: Sequence[worlds.Drawn], pair: tuple[str, str], results: Mapping[str, Sequence[Result]],
    rates: Mapping[str, float], resamples: int,
) -> contract.Row:  # fmt: skip
    labels, truth, groups = zip(*map(worlds.tested, drawns), strict=True)
    losses, sides = {}, dict(zip(("with", "without"), pair, strict=True))
    row: contract.Row = {**sides, "ne_best": float(np.mean(list(map(normalized_entropy, labels, truth))))}
    for side, name in sides.items():
        its = results[name]
        losses[side] = list(map(cross_entropies, labels, (one.probabilities for one in its)))
        row[f"ne_{side}"] = float(np.mean(list(map(normalized_entropy, labels, (one.probabilities for one in its)))))
        row |= {f"parameters_{side}": its[0].parameters, f"rate_{side}": rates[name]}
        for what in ("spread", "abundance"):
            values = [getattr(one, what) for one in its if getattr(one, what) is not None]
            row |= {f"{what}_{side}": float(np.mean(values))} if values else {}
    if spreads := [worlds.spread_of(one.alike.truth) for one in drawns if one.alike is not None]:
        row["spread_best"] = float(np.mean(spreads))
    return row | gain(losses["with"], losses["without"], groups, resamples) | {"deviation": world.specs[pair[0]].deviation}


def cross_entropies(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(M,) nats."""
    inside = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return -np.log(np.where(labels == 1, inside, 1 - inside))


def gain(
    with_: Sequence[np.ndarray], without: Sequence[np.ndarray], groups: Sequence[np.ndarray], resamples: int, same_groups: bool = False
) -> dict[str, float]:
    """1 - NE with / NE without, mean over the seeds, and its interval over the groups of all of them.

    NE divides both cross entropies by the same entropy of the labels, so that their ratio is one of sums of the losses (M,).
    same_groups: whether a number is the same group in all seeds; it is then drawn for all of them at once.
    """
    borders = np.cumsum([len(losses) for losses in with_])[:-1]
    first = np.zeros(len(groups) + 1, np.int64) if same_groups else np.cumsum([0, *(its.max() + 1 for its in groups)])

    def each(weights: np.ndarray) -> list[float]:
        return [1 - float(w @ b) / float(w @ a) for w, b, a in zip(np.split(weights, borders), with_, without, strict=True)]

    shifted = np.concatenate([its + begin for its, begin in zip(groups, first[:-1], strict=True)])
    interval = cluster_bootstrap(lambda weights: float(np.mean(each(weights))), shifted, resamples)
    gains = each(np.ones(len(shifted)))
    return {"gain": float(np.mean(gains)), "low": interval.low, "high": interval.high, "gain_min": min(gains), "gain_max": max(gains)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=[*WORLDS])
    parser.add_argument("--share", type=float, default=1.0, help="of the users of each world")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    size = {"seeds": options.seeds, "share": options.share}
    size |= {"users": {name: world.users for name, world in WORLDS.items()}, "rates": {name: world.rates for name, world in WORLDS.items()}}
    bases = [{"set": "bases", "base": base, "correlation": worlds.kept_distance(base)} for base in BASES]
    for name in options.worlds:  # a table after each world: a run that is cut short leaves those that it measured
        others = contract.earlier("ranking_parts", lambda row: row["set"] == "parts", options.results)
        world, rows = WORLDS[name], [row for row in others if row["world"] != name]
        for null in (False, True):
            its = measured(world, null, options.seeds, round(world.users * options.share), options.resamples)
            rows += [{"set": "parts", "world": name, "null": null} | row for row in its]
        rows.sort(key=lambda row: list(WORLDS).index(row["world"]))
        contract.publish("ranking_parts", size, rows + bases, {}, options.results)


if __name__ == "__main__":
    main()

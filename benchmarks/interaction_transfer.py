"""Do the experts of a ranking model that has learnt on a richer surface help a small one? (LFM4Ads, module level)

    python -m benchmarks.interaction_transfer

Two surfaces show the same ads to the same users (transfer_worlds.py). One ranking model learns on the rich one, up to the day on which the
validation of the small one begins. The small model is trained on the poor surface and evaluated on its later days, in all and on the rows
of advertisers in their first days there. It has the embedding tables and experts of the other model beside its own, in every way that
ranking.upstream offers. What it is compared with has the same shape and as many weights, all drawn anew. Every variant has the best of the
same learning rates, by the loss on the last days before the cut. In the null twin the rich surface says nothing of the poor one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import ITEM
from alure_spark.clock import DAY_MS
from alure_spark.config import ALTERNATING, COPIED, FINE_TUNED, FROZEN, OWN, ExpertConfig, RankingConfig, UpstreamConfig
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.ranking.upstream import copy_interactions, upstream_spec
from alure_spark.training import ranking_model
from benchmarks import contract
from benchmarks import transfer_worlds as worlds
from benchmarks.ranking_sets import TASK, Ids, RankingRows, batch_of
from benchmarks.transfer import Task, rows_of, said_of, trained, tuned

SEEDS = (21, 22, 23, 24, 25)  # each draws a world of its own, weights, batches
USERS = 1000
RATES = (2e-3, 5e-3, 1.2e-2)  # among which each variant's learning rate is chosen, seed by seed
RICH_RATE = 1.2e-2  # of the other model, which all variants share
CONFIG = RankingConfig(epochs=16, patience=4, batch_users=128)
BORDER_MS = worlds.BEGIN_MS + (worlds.CUT - 3) * DAY_MS  # the other model has learnt from what lies before; what lies after validates
TABLES = {"wide": 16, "narrow": 8}
EXPERTS = {"gwpfm": ExpertConfig("gwpfm", "wide"), "dcn": ExpertConfig("dcn_v2", "narrow")}


@dataclass(frozen=True)
class Variant:
    """A small model: what it has beside its own tables and experts."""

    train: str = ""  # as ranking.upstream.train; empty: nothing of another model
    tables: str = COPIED
    copies: bool = True  # else the weights are drawn anew
    own: bool = True  # whether it has tables and experts of its own


NOTHING = "the same shape, drawn anew"
VARIANTS: Mapping[str, Variant] = {
    NOTHING: Variant(FINE_TUNED, copies=False),
    "own experts alone": Variant(),
    "frozen": Variant(FROZEN),
    "fine_tuned": Variant(FINE_TUNED),
    "alternating": Variant(ALTERNATING),
    "frozen, own tables": Variant(FROZEN, OWN),
    "frozen, no own experts": Variant(FROZEN, own=False),
}
COMPARED = (  # (with, without)
    ("fine_tuned", "frozen"), ("alternating", "frozen"), ("alternating", "fine_tuned"), ("frozen, no own experts", "frozen"),
    ("frozen, own tables", "frozen"),
)  # fmt: skip


@dataclass(frozen=True)
class Other:
    """The model of the rich surface, and the ids that it knows."""

    network: RankingNetwork
    ids: Ids


@dataclass(frozen=True)
class Result:
    """A variant in one seed's world."""

    probabilities: np.ndarray  # (tested rows,) float64 calibrated, in their order
    rate: float
    weights: int
    learning: int  # of the weights: those that training may change


def rich_rows(log: JaggedBatch) -> RankingRows:
    """The impressions of the rich surface; those before BORDER_MS are of training."""
    shown = log.impressions
    assert shown is not None
    user, ad, time_ms = shown.users().numpy(), shown.rows[ITEM].numpy() - 1, shown.time_ms.numpy()
    label = shown.labels["click"].double().numpy()
    named = {"user": user, "ad": ad, "account": ad // worlds.ADS_PER_ACCOUNT}
    categories = {name: its.astype(str).astype(object) for name, its in named.items()}
    return RankingRows("rich surface", user, time_ms, categories, {}, label, label, time_ms < BORDER_MS)


def poor_rows(world: worlds.TwoSurfaces) -> RankingRows:
    """The rows of the poor surface, with the user as an id, as the other model reads it."""
    categories = {"user": world.rows.user.astype(str).astype(object)} | dict(world.rows.categories)
    return replace(world.rows, categories=categories)


def spec_of(rows: RankingRows) -> RankingSpec:
    """Before its encodings are fitted: an id per category of the rows, and their numbers."""
    sides = {"user": "user", "ad": "ad", "account": "ad"}
    of = {name: sides.get(name, "context") for name in rows.categories}
    fields = {name: FieldSpec("id", group=side, part="ad" if side == "ad" else "user") for name, side in of.items()}
    fields |= {name: FieldSpec("standardized", group="number") for name in rows.numbers}
    return RankingSpec(fields, TABLES, EXPERTS, (TASK,), hidden=32, tower=(16,))


def other_model(log: JaggedBatch, seed: int) -> Other:
    """Trained on the impressions before BORDER_MS, of which the last three days validate."""
    return other_model_of(rich_rows(log), BORDER_MS - 3 * DAY_MS, replace(CONFIG, learning_rate=RICH_RATE, seed=seed))


def other_model_of(rows: RankingRows, validation_ms: int, config: RankingConfig) -> Other:
    """Trained on the training rows, of which those from a moment on validate."""
    rows = rows.select(rows.is_train)
    ids = Ids.of_training(rows)
    batch, _ = batch_of(rows, ids, rows.time_ms >= validation_ms)
    loader = MemoryLoader(batch, config.batch_users, config.seed)
    spec = ranking_model.fitted_spec(spec_of(rows), loader, ids.vocabulary())
    return Other(trained(spec, loader, config).network, ids)


def joined(known: Ids, new: Ids) -> Ids:
    """The ids of both, those that are known first: their rows stay."""
    none = next(iter(known.of.values()))[:0]
    before = {name: known.of.get(name, none) for name in new.of}
    return Ids({name: its.append(new.of[name].difference(its)) for name, its in before.items()})


def draft_of(rows: RankingRows, variant: Variant, other: Other) -> RankingSpec:
    """Of a small model, before its encodings are fitted."""
    plain = spec_of(rows)
    if not variant.train:
        return plain
    upstream = upstream_spec("rich", other.network.spec, UpstreamConfig("rich", "", variant.train, variant.tables), 0.0)
    beside = replace(plain, upstream=upstream)
    return beside if variant.own else replace(beside, tables={}, experts={})


def results_of(world: worlds.TwoSurfaces, variants: Mapping[str, Variant], other: Other, seed: int) -> dict[str, Result]:
    """Every variant with its best learning rate."""
    return results_on(poor_rows(world), variants, other, BORDER_MS, replace(CONFIG, seed=seed), RATES)


def results_on(
    rows: RankingRows, variants: Mapping[str, Variant], other: Other, border_ms: int, config: RankingConfig, rates: Sequence[float]
) -> dict[str, Result]:
    """The same on any rows; those of training from border_ms on validate."""
    training, tested, results = rows.select(rows.is_train), rows.select(~rows.is_train), {}
    mine = Ids.of_training(training.select(training.time_ms < border_ms))
    for name, variant in variants.items():
        ids = joined(other.ids, mine) if variant.train else mine
        learnt, _ = batch_of(training, ids, training.time_ms >= border_ms)
        shown, order = batch_of(tested, ids, np.ones(len(tested.user), bool))
        loader = MemoryLoader(learnt, config.batch_users, config.seed)
        spec = ranking_model.fitted_spec(draft_of(rows, variant, other), loader, ids.vocabulary())

        def begin(network: RankingNetwork, variant: Variant = variant, ids: Ids = ids) -> None:
            if variant.train and variant.copies:
                copy_interactions(network, other.network, other.ids.vocabulary(), ids.vocabulary())

        model, rate = tuned(spec, loader, rates, config, begin)
        network, probabilities = model.network, said_of(model.network, shown, order, config.seed)
        weights, learning = sum(one.numel() for one in network.parameters()), sum(network.parameter_counts().values())
        results[name] = Result(probabilities, rate, weights, learning)
    return results


def facts_of(name: str, results: Sequence[Result]) -> contract.Row:
    """What a variant's row says beside its NE and gain."""
    return {key: [getattr(one, key) for one in results] for key in ("rate", "weights", "learning")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--users", type=int, default=USERS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tasks: dict[bool, list[Task]] = {False: [], True: []}
    results: dict[bool, list[dict[str, Result]]] = {False: [], True: []}
    for seed in options.seeds:
        twins = {null: worlds.two_surfaces(np.random.default_rng(seed), options.users, null) for null in (False, True)}
        other = other_model(twins[False].upstream, seed)  # both twins have one rich surface
        for null, world in twins.items():
            tasks[null].append(Task(world.rows, world.cold, world.truth))
            results[null].append(results_of(world, VARIANTS, other, seed))
            print(f"seed {seed} null {null}: {[(name, one.rate) for name, one in results[null][-1].items()]}", file=sys.stderr, flush=True)
    rows = [
        {"null": null} | row
        for null in (False, True)
        for row in rows_of(tasks[null], results[null], options.resamples, facts_of, NOTHING, COMPARED)
    ]
    size = {"seeds": options.seeds, "users": options.users, "rates": RATES}
    contract.publish("interaction_transfer", size, rows, {}, options.results)


if __name__ == "__main__":
    main()

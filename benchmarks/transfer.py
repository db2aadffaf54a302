"""What does a small ranking model gain from representations of a user model that has learnt on a richer surface? (LFM4Ads, feature level)

    python -m benchmarks.transfer

Two surfaces show the same ads to the same users (transfer_worlds.py). The user model is trained on the rich one, up to the day on which the
poor one opens. From then on its representations are read as of each midnight: of users (UR), of ads (IR), and the decaying means of what it
made of impressions, per user and per ad (CR). The ranking model is trained on the poor surface and evaluated on its later days, in all
and on the rows of advertisers in their first days there. Every variant sees the same rows and ids, has as many parameters (within 2 %, by
a wider layer) and the best of the same learning rates, by the loss on the last days before the cut. In the null twin the rich surface says
nothing of the poor one, so that a gain would be a fault. The layer of the CR is chosen on validation, in worlds of other seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import torch

from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import ITEM
from alure_spark.clock import DAY_MS
from alure_spark.config import ExpertConfig, RankingConfig, TransferConfig
from alure_spark.config.transfer import CROSS_LAYERS
from alure_spark.metrics import normalized_entropy
from alure_spark.model.user_model import UserModel
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_model
from benchmarks import contract
from benchmarks import transfer_upstream as upstream
from benchmarks import transfer_worlds as worlds
from benchmarks.ranking_parts import cross_entropies, equalized, gain, parameters, spec_of
from benchmarks.ranking_sets import TASK, Ids, RankingRows, batch_of

SEEDS = (31, 32, 33, 34, 35)  # each draws a world of its own, weights, batches
CHOOSING = (101,)  # of the worlds on which the layer of the CR is chosen
USERS = 1000
RATES = (4e-3, 1.2e-2)  # among which each variant's learning rate is chosen, seed by seed
VALIDATION_DAYS = 3
CONFIG = RankingConfig(epochs=25, patience=4, batch_users=128, table_learning_rate_share=1.0, weight_decay=1.0)
TABLES = {"one": 8}
EXPERTS = {"products": ExpertConfig("ipnn", "one"), "flat": ExpertConfig("flat_dnn", "one")}
TRANSFER = TransferConfig(half_life_days=14.0, window_days=60)
REPRESENTATIONS = {  # field -> whose it is
    "user_embedding": "user", "ad_representation": "ad", "user_cross": "user", "ad_cross": "ad",
}  # fmt: skip
OF_OTHERS = "others_"  # begins the names of representations that are of another user or ad
UR, IR, CR = ("user_embedding",), ("ad_representation",), ("user_cross", "ad_cross")


@dataclass(frozen=True)
class Variant:
    """What a ranking model reads of the user model, and how."""

    reads: tuple[str, ...] = ()  # of REPRESENTATIONS
    adapter: str = "nonlinear"
    level: str = "feature"  # at which the user model is transferred


NOTHING, ALL = "nothing", "UR + IR + CR"
VARIANTS: Mapping[str, Variant] = {
    NOTHING: Variant(),
    "UR": Variant(UR),
    "UR + IR": Variant(UR + IR),
    ALL: Variant(UR + IR + CR),
    **{f"{ALL}, {adapter}": Variant(UR + IR + CR, adapter) for adapter in ("raw", "linear", "gate")},
}
COMPARED = (  # (with, without)
    ("UR", NOTHING), ("UR + IR", "UR"), (ALL, "UR"), (ALL, "UR + IR"),
    *((ALL, f"{ALL}, {adapter}") for adapter in ("raw", "linear", "gate")),
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """The rows of the poor surface with the representations that each of them may read."""

    rows: RankingRows
    cold: np.ndarray  # (n,) bool
    truth: np.ndarray | None  # (n,) float64, where it is known

    @property
    def tested(self) -> np.ndarray:
        """(n,) bool."""
        return ~self.rows.is_train


class Predicting(Protocol):
    """Any variant in one seed's task."""

    @property
    def probabilities(self) -> np.ndarray: ...  # (tested rows,) float64 calibrated, in their order


R = TypeVar("R", bound=Predicting)


@dataclass(frozen=True)
class Result:
    """A variant in one seed's task."""

    probabilities: np.ndarray  # (tested rows,) float64 calibrated, in their order
    validation: float  # loss of its best epoch
    rate: float
    parameters: int


@dataclass(frozen=True)
class Extracted:
    """A trained user model, and what it makes of every impression of a log."""

    model: UserModel
    log: JaggedBatch
    crosses: np.ndarray  # (M, numbers)

    def given(self, rows: RankingRows, ads: tuple[np.ndarray, np.ndarray]) -> RankingRows:
        """The rows with their representations as of the midnight before each. ads: rows of the vocabulary of ads and of their accounts."""
        shown = self.log.impressions
        assert shown is not None
        known = shown.time_ms.numpy()
        ad, times = rows.categories["ad"].astype(np.int64), rows.time_ms
        of_user = upstream.Seen(shown.users().numpy(), known, self.crosses)
        of_ad = upstream.Seen(shown.rows[ITEM].numpy() - 1, known, self.crosses)
        vectors = {
            "user_embedding": upstream.user_embeddings(self.model, self.log, rows.user, times),
            "ad_representation": upstream.ad_representations(self.model, *ads)[ad],
            "user_cross": upstream.decaying_means(of_user, rows.user, times, TRANSFER),
            "ad_cross": upstream.decaying_means(of_ad, ad, times, TRANSFER),
        }
        return replace(rows, vectors=vectors)


def tasks_of(seed: int, users: int, layers: Sequence[str]) -> dict[tuple[str, bool], Task]:
    """(Layer of the CR, whether it is the null twin) -> the task. Both twins have one rich surface, so that one user model serves all."""
    twins = {null: worlds.two_surfaces(np.random.default_rng(seed), users, null) for null in (False, True)}
    log, opens = twins[False].upstream, worlds.BEGIN_MS + worlds.OPENS * DAY_MS
    model = upstream.trained_user_model(log, worlds.CLICK, opens, seed)
    made = {layer: Extracted(model, log, upstream.crosses(model, log, layer)) for layer in layers}
    return {
        (layer, null): Task(its.given(one.rows, one.ads), one.cold, one.truth)
        for layer, its in made.items()
        for null, one in twins.items()
    }  # fmt: skip


def draft_of(rows: RankingRows, variant: Variant) -> RankingSpec:
    """Ids and numbers of the rows, and of the variant its representations; the encodings are not fitted."""
    sides = {"user": "user", "ad": "ad", "account": "ad"}
    of = {name: sides.get(name, "context") for name in rows.categories}
    fields = {name: FieldSpec("id", group=side, part="ad" if side == "ad" else "user") for name, side in of.items()}
    fields |= {name: FieldSpec("standardized", group="number", part="number") for name in rows.numbers}
    for name in variant.reads:
        settings = {"numbers": rows.vectors[name].shape[1], "adapter": variant.adapter}
        side = REPRESENTATIONS[name.removeprefix(OF_OTHERS)]
        fields[name] = FieldSpec("numbers", settings, group=side, part=side)
    return replace(spec_of(fields, TABLES, EXPERTS), tasks=(TASK,), hidden=32, tower=(16,), linear=True, dropout=0.2)


def last_days(training: RankingRows, seed: int, days: int = VALIDATION_DAYS) -> np.ndarray:
    """(n,) bool: the rows of the last days, whatever the seed."""
    its: np.ndarray = training.time_ms > training.time_ms.max() - days * DAY_MS
    return its


def results_of(
    task: Task, variants: Mapping[str, Variant], seed: int, rates: Sequence[float] = RATES,
    config: RankingConfig = CONFIG, validation: Callable[[RankingRows, int], np.ndarray] = last_days,
) -> dict[str, Result]:  # fmt: skip
    """Every variant with its best learning rate, all with as many parameters.

    validation: of the training rows, those that no step learns from.
    """
    rows = task.rows
    ids, training = Ids.of_training(rows), rows.select(rows.is_train)
    learnt, _ = batch_of(training, ids, validation(training, seed))
    tested, order = batch_of(rows.select(task.tested), ids, np.ones(int(task.tested.sum()), bool))
    loader = MemoryLoader(learnt, config.batch_users, seed)
    drafts = {name: draft_of(rows, variant) for name, variant in variants.items()}
    fitted = {name: ranking_model.fitted_spec(draft, loader, ids.vocabulary()) for name, draft in drafts.items()}
    results = {}
    for name, spec in equalized(fitted).items():
        model, rate = tuned(spec, loader, rates, replace(config, seed=seed))
        probabilities = said_of(model.network, tested, order, seed)
        results[name] = Result(probabilities, model.validation.losses[TASK], rate, parameters(spec))
    return results


def trained(
    spec: RankingSpec, loader: MemoryLoader, config: RankingConfig, begin: Callable[[RankingNetwork], None] = lambda network: None
) -> ranking_model.TrainedRanking:
    """begin: what happens to the new network before it learns."""
    network = ranking_model.new_network(spec, loader, config.seed)
    begin(network)
    return ranking_model.train(network, loader, config)


def tuned(
    spec: RankingSpec, loader: MemoryLoader, rates: Sequence[float], config: RankingConfig,
    begin: Callable[[RankingNetwork], None] = lambda network: None,
) -> tuple[ranking_model.TrainedRanking, float]:  # fmt: skip
    """(The model of the learning rate with the least validation loss, that rate)."""
    tried = {rate: trained(spec, loader, replace(config, learning_rate=rate), begin) for rate in rates}
    rate = min(rates, key=lambda one: tried[one].validation.losses[TASK])
    return tried[rate], rate


def said_of(network: RankingNetwork, tested: JaggedBatch, order: np.ndarray, seed: int) -> np.ndarray:
    """(n,) float64 calibrated probabilities of the tested rows. order (n,): which of these each row of the batch is."""
    probabilities = np.empty(len(order))
    evaluation = ranking_model.evaluate(network, MemoryLoader(tested, 4096, seed))
    probabilities[order] = ranking_model.probabilities(network, evaluation)[:, 0]
    return probabilities


def facts_of(name: str, results: Sequence[Result], variants: Mapping[str, Variant] = VARIANTS) -> contract.Row:
    """What a variant's row says beside its NE and gain."""
    chosen = {"rates": [one.rate for one in results], "parameters": [one.parameters for one in results]}
    return {"level": variants[name].level} | chosen


def rows_of(
    tasks: Sequence[Task], results: Sequence[Mapping[str, R]], resamples: int, facts: Callable[[str, Sequence[R]], contract.Row],
    nothing: str = NOTHING, compared: Sequence[tuple[str, str]] = COMPARED, same_users: bool = False,
) -> list[contract.Row]:  # fmt: skip
    """Per set of rows (all, cold): a row per variant, then one per comparison; all seeds together.

    facts: of a variant and its results, one per seed; nothing: the variant that all others are compared with; same_users: whether a number
    is the same user in all seeds, as in a set that is not drawn.
    """
    rows: list[contract.Row] = []
    for which in ("all", "cold"):
        kept = [task.cold[task.tested] if which == "cold" else np.ones(int(task.tested.sum()), bool) for task in tasks]
        if not sum(map(np.sum, kept)):
            continue
        labels = [task.rows.label[task.tested][its] for task, its in zip(tasks, kept, strict=True)]
        groups = [task.rows.user[task.tested][its] for task, its in zip(tasks, kept, strict=True)]
        every = [_losses(task, one) for task, one in zip(tasks, results, strict=True)]
        losses = {name: [one[name][its] for one, its in zip(every, kept, strict=True)] for name in results[0]}
        ne = {name: float(np.mean([its.sum() / _entropy(y) for its, y in zip(losses[name], labels, strict=True)])) for name in losses}
        truths = [task.truth[task.tested][its] for task, its in zip(tasks, kept, strict=True) if task.truth is not None]
        best = float(np.mean(list(map(normalized_entropy, labels, truths)))) if truths else None
        common = {"rows": which, "impressions": sum(map(len, labels)), "positives": int(sum(map(np.sum, labels))), "ne_best": best}
        for name in losses:
            against = gain(losses[name], losses[nothing], groups, resamples, same_users)
            row = {"kind": "variant", "variant": name, "ne": ne[name]} | facts(name, [one[name] for one in results])
            rows.append(common | row | against)
        for name, other in compared:
            if name in losses and other in losses:
                its = gain(losses[name], losses[other], groups, resamples, same_users)
                rows.append(common | {"kind": "comparison", "variant": name, "without": other} | its)
    return rows


def _losses(task: Task, results: Mapping[str, Predicting]) -> dict[str, np.ndarray]:
    """Variant -> (tested rows,) nats."""
    return {name: cross_entropies(task.rows.label[task.tested], its.probabilities) for name, its in results.items()}


def _entropy(label: np.ndarray) -> float:
    """Nats of all rows together, at their mean label."""
    return float(cross_entropies(label, np.full(len(label), label.mean())).sum())


def chosen_layer(seeds: Sequence[int], users: int) -> tuple[str, list[contract.Row]]:
    """(The layer of the CR with the least validation loss of the ranking model, mean over the seeds; a row per layer)."""
    losses: dict[str, list[float]] = {layer: [] for layer in CROSS_LAYERS}
    for seed in seeds:
        for (layer, null), task in tasks_of(seed, users, CROSS_LAYERS).items():
            if not null:
                losses[layer].append(results_of(task, {ALL: VARIANTS[ALL]}, seed)[ALL].validation)
    means = {layer: float(np.mean(its)) for layer, its in losses.items()}
    best = min(means, key=means.__getitem__)
    rows = [{"kind": "layer", "layer": layer, "validation": loss, "chosen": layer == best} for layer, loss in means.items()]
    return best, rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--choosing", nargs="+", type=int, default=list(CHOOSING), help="seeds that choose the layer of the CR")
    parser.add_argument("--users", type=int, default=USERS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    layer, rows = chosen_layer(options.choosing, options.users)
    tasks: dict[bool, list[Task]] = {False: [], True: []}
    results: dict[bool, list[dict[str, Result]]] = {False: [], True: []}
    for seed in options.seeds:
        for (_, null), task in tasks_of(seed, options.users, [layer]).items():
            tasks[null].append(task)
            results[null].append(results_of(task, VARIANTS, seed))
            said = {name: f"{its.sum():.0f}" for name, its in _losses(task, results[null][-1]).items()}
            print(f"seed {seed}, null twin {null}: nats {said}", file=sys.stderr, flush=True)
    for null in (False, True):
        rows += [{"set": "two surfaces", "null": null} | row for row in rows_of(tasks[null], results[null], options.resamples, facts_of)]
    size = {"seeds": options.seeds, "choosing": options.choosing, "users": options.users, "rates": RATES, "layer": layer}
    contract.publish("transfer", size, rows, {}, options.results)


if __name__ == "__main__":
    main()

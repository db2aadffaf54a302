"""Do ranking losses help where clicks are rare, and do weights of repeated exposures lower their scores? (Pan et al., sections 6.1, 6.2)

    python -m benchmarks.ranking_losses [--parts sparse repeats ebnerd] [--data ../shared/data]

sparse: worlds of several base rates, and null twins in which there is nothing to learn. One model, four losses, as many candidates of
learning rate and alpha for each, chosen by the cross entropy of the validation split of the first seed. repeats: a world in which ads
tire, and its null twin; models with and without fields of exposure and REW. ebnerd: the same on real articles in view. Neither training nor
validation has seen the test part; three seeds, each with rows, weights and batches of its own; intervals over users.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExpertConfig, LossConfig, RankingConfig
from alure_spark.metrics import auc, normalized_entropy
from alure_spark.ranking.spec import FieldSpec
from alure_spark.training import ranking_model
from benchmarks import contract
from benchmarks import ranking_loss_worlds as worlds
from benchmarks.ranking_exposures import of_ebnerd, of_repeats
from benchmarks.ranking_parts import cross_entropies, gain, parameters, spec_of, vocabulary
from benchmarks.ranking_worlds import Drawn, tested

SEEDS = (7, 8, 9)
CONFIG = RankingConfig(epochs=16, patience=3, batch_users=256)
ONE_PASS = replace(CONFIG, epochs=1, batch_users=64)  # every row once, as where the log does not end


@dataclass(frozen=True)
class World:
    """A base rate, and how models are trained on it."""

    rate: float  # share of the impressions with a click
    users: int
    config: RankingConfig = CONFIG
    null: bool = False  # whether there is a null twin


WORLDS = {
    "0.1 %": World(0.001, 20_000, null=True),
    "1 %": World(0.01, 12_000, null=True),
    "20 %": World(0.2, 1500),
    "0.1 %, one pass": World(0.001, 40_000, ONE_PASS),
    "1 %, one pass": World(0.01, 40_000, ONE_PASS),
}
FIELDS = {name: FieldSpec("id", {"size": 1}, group="ad" if name == "ad" else "user") for name in worlds.SIZES}
SPARSE = spec_of(FIELDS, {"one": 8}, {"cross": ExpertConfig("dcn_v2", "one")})
GRADIENT = "gradient.click.negatives"


@dataclass(frozen=True)
class Candidate:
    learning_rate: float
    loss: LossConfig


def _mixed(kind: str) -> list[Candidate]:
    return [Candidate(rate, LossConfig(kind, alpha)) for rate in (2e-3, 8e-3) for alpha in (0.65, 0.9)]


CANDIDATES = {  # loss -> among which it is chosen; as many for each
    "bce": [Candidate(rate, LossConfig()) for rate in (1e-3, 2e-3, 4e-3, 8e-3)],
    **{kind: _mixed(kind) for kind in ("pairwise", "listwise", "jrc")},
}


@dataclass(frozen=True)
class Fitted:
    """A trained model on the test part of one seed's world."""

    candidate: Candidate
    probabilities: np.ndarray  # (M,) float64 calibrated
    uncalibrated: np.ndarray  # (M,) float64
    validation: float  # cross entropy of its best epoch
    gradients: list[float]  # of negatives, per epoch
    best_epoch: int


def fitted(one: Drawn, config: RankingConfig, candidate: Candidate, seed: int) -> Fitted:
    config = replace(config, learning_rate=candidate.learning_rate, loss=candidate.loss, seed=seed)
    loader = MemoryLoader(one.batch(test=False), config.batch_users, seed)
    spec = ranking_model.fitted_spec(SPARSE, loader, vocabulary(one))
    network = ranking_model.new_network(spec, loader, seed)
    model = ranking_model.train(network, loader, config)
    evaluation = ranking_model.evaluate(model.network, MemoryLoader(one.batch(test=True), 1024, seed))
    honest = ranking_model.probabilities(model.network, evaluation)[:, 0]
    raw = 1 / (1 + np.exp(-evaluation.logits[:, 0]))
    gradients = [row[GRADIENT] for row in model.curves]
    return Fitted(candidate, honest, raw, model.validation.losses["click"], gradients, model.best_epoch)


def of_sparse(name: str, null: bool, options: argparse.Namespace) -> list[contract.Row]:
    """One row per loss."""
    world = WORLDS[name]
    users = round(world.users * options.share)
    drawns = [worlds.sparse(np.random.default_rng([seed, null]), users, null, world.rate) for seed in options.seeds]
    found: dict[str, list[Fitted]] = {}
    for loss, candidates in CANDIDATES.items():
        tried = [fitted(drawns[0], world.config, candidate, options.seeds[0]) for candidate in candidates]
        best = min(tried, key=lambda one: one.validation)
        others = zip(drawns[1:], options.seeds[1:], strict=True)
        found[loss] = [best, *(fitted(one, world.config, best.candidate, seed) for one, seed in others)]
        print(f"{name} null {null} {loss}: {best.candidate}", file=sys.stderr, flush=True)
    return [{"set": "sparse", "world": name, "null": null} | _sparse_row(loss, found, drawns, options.resamples) for loss in found]


def _sparse_row(loss: str, found: Mapping[str, Sequence[Fitted]], drawns: Sequence[Drawn], resamples: int) -> contract.Row:
    labels, truth, groups = zip(*map(tested, drawns), strict=True)
    its, plain = found[loss], found["bce"]

    def mean(metric: Callable[..., float], predictions: Sequence[np.ndarray]) -> float:
        return float(np.mean(list(map(metric, labels, predictions))))

    losses = {name: [cross_entropies(y, one.probabilities) for y, one in zip(labels, found[name], strict=True)] for name in (loss, "bce")}
    best = its[0].candidate
    return {
        "loss": loss, "alpha": best.loss.alpha if loss != "bce" else None, "rate": best.learning_rate,
        "candidates": len(CANDIDATES[loss]), "positives": float(np.mean([one.clicks[: one.parts[0]].sum() for one in drawns])),
        "ne": mean(normalized_entropy, [one.probabilities for one in its]),
        "ne_uncalibrated": mean(normalized_entropy, [one.uncalibrated for one in its]),
        "ne_best": mean(normalized_entropy, truth), "auc": mean(auc, [one.probabilities for one in its]),
        "multiple_first": _multiple(its, plain, 0), "multiple_last": _multiple(its, plain, None),
        "epochs": float(np.mean([one.best_epoch + 1 for one in its])),
        "parameters": parameters(ranking_model.fitted_spec(SPARSE, MemoryLoader(drawns[0].batch(False), 256, 0), vocabulary(drawns[0]))),
    } | gain(losses[loss], losses["bce"], groups, resamples)  # fmt: skip


def _multiple(its: Sequence[Fitted], plain: Sequence[Fitted], epoch: int | None) -> float:
    """Of the norm of the gradient on negatives: that of the loss / that of cross entropy, in an epoch, or (None) each in its best one."""
    each = [
        one.gradients[one.best_epoch if epoch is None else epoch] / other.gradients[other.best_epoch if epoch is None else epoch]
        for one, other in zip(its, plain, strict=True)
    ]
    return float(np.mean(each))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--data", type=Path, help="folder of ebnerd_sample; without it this part is left out")
    parser.add_argument("--share", type=float, default=1.0, help="of the users of each world")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    size = {"seeds": options.seeds, "share": options.share, "users": {name: world.users for name, world in WORLDS.items()}}
    for name in options.parts:
        if name == "ebnerd" and options.data is None:
            print("ebnerd is left out: --data names no folder", file=sys.stderr)
            continue
        others = contract.earlier("ranking_losses", lambda row, name=name: row["set"] != name, options.results)  # type: ignore[misc]
        rows = sorted([*others, *PARTS[name](options)], key=lambda row: list(PARTS).index(row["set"]))
        contract.publish("ranking_losses", size, rows, {}, options.results)


def _all_sparse(options: argparse.Namespace) -> list[contract.Row]:
    return [row for name in WORLDS for null in (False, True) if WORLDS[name].null or not null for row in of_sparse(name, null, options)]


PARTS: dict[str, Callable[[argparse.Namespace], list[contract.Row]]] = {
    "sparse": _all_sparse,
    "repeats": of_repeats,
    "ebnerd": of_ebnerd,
}


if __name__ == "__main__":
    main()

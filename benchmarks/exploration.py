"""What is exploration worth when ads are new? Thompson sampling (Pan et al., section 6.4) beside greedy, epsilon-greedy and upper bounds.

    python -m benchmarks.exploration

Thirty days in a world with known truth (exploration_worlds.py). The ranking network is trained once, on what was known before; what each
policy shows is learnt once a day. All policies of a seed meet the same requests and the same luck. Each has one dial with four values,
of which the best on worlds of other seeds is taken. Value = true click probability of what was shown; intervals are paired over the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExpertConfig, ExplorationConfig, RankingConfig
from alure_spark.metrics import paired_interval
from alure_spark.ranking.exploration import Posterior
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_exploration, ranking_model
from benchmarks import contract
from benchmarks import exploration_policies as policies
from benchmarks import exploration_worlds as worlds
from benchmarks.exploration_policies import Contexts, Policy

SEEDS, TUNING_SEEDS = tuple(range(1001, 1073)), tuple(range(101, 117))
EQUAL = 4  # seeds of the world in which nothing can be gained or lost
FEATURES = 128
LENGTHS = (0.25, 0.5, 1.0)  # of which the product chooses on its validation split
VARIANCES, SHARES, DEVIATIONS, WIDTHS = (1.0, 4.0, 16.0, 64.0), (0.02, 0.05, 0.1, 0.2), (0.25, 0.5, 1.0, 2.0), (0.1, 0.3, 1.0, 3.0)
CONFIG = RankingConfig(epochs=10, patience=3, learning_rate=8e-3)
SPEC = RankingSpec(
    fields={
        "group": FieldSpec("id", {"size": worlds.GROUPS + 1}),
        "content": FieldSpec("numbers", {"numbers": worlds.CONTENT}, "ad", "ad"),
    },
    tables={"one": 8},
    experts={"flat": ExpertConfig("flat_dnn", "one", {"hidden": (32,)}), "cross": ExpertConfig("dcn_v2", "one")},
    tasks=("click",),
    hidden=32,
    tower=(16,),
    deviation=0.1,
)
THOMPSON, GREEDY = "Thompson", "greedy"


class Prepared:
    """A world, the network that was trained on its history, and what it says of all contexts."""

    def __init__(self, kind: str, seed: int) -> None:
        self.world, self.seed = worlds.drawn(np.random.default_rng([seed, worlds.KINDS.index(kind)]), kind), seed
        loader = MemoryLoader(self.world.history.batch(test=False), 64, seed)
        network = ranking_model.new_network(SPEC, loader, seed)
        ranking_model.train(network, loader, CONFIG)
        with torch.no_grad():
            logits, hidden = network.with_hidden(self.world.contexts().batch(test=True))
            calibrated = network.calibrated(logits.double())[:, 0]
        row = (self.world.history.rows["group"] - 1) * self.world.ads + _ads(self.world)
        learnt = slice(0, self.world.history.parts[0])  # of the validation split nothing is learnt
        count = worlds.GROUPS * self.world.ads
        shown, clicked = (
            np.bincount(row[learnt].ravel(), its[learnt].ravel(), count) for its in (np.ones(row.shape), self.world.history.clicks)
        )
        self.contexts = Contexts(hidden["click"], calibrated, shown, clicked)
        self.network, self.loader = network, loader
        self.posteriors = dict[float, Posterior]()

    def posterior(self, variance: float) -> Posterior:
        """Before the first day, for a prior variance."""
        if variance not in self.posteriors:
            config = ExplorationConfig(features=FEATURES, length_scales=LENGTHS, prior_variance=variance, seed=self.seed)
            self.posteriors[variance] = ranking_exploration.fitted_posteriors(self.network, self.loader, config)["click"].posterior
        return self.posteriors[variance]


def _ads(world: worlds.World) -> np.ndarray:
    """(users, impressions) the ads of the history, found by their content."""
    place = {tuple(one): ad for ad, one in enumerate(world.content)}
    content = world.history.vectors["content"]
    return np.array([place[tuple(one)] for one in content.reshape(-1, worlds.CONTENT)]).reshape(content.shape[:2])


Maker = Callable[[Prepared, float, float], Policy]  # (world, dial, the prior variance that is best for greedy)
POLICIES: Mapping[str, tuple[Sequence[float], Maker]] = {
    THOMPSON: (VARIANCES, lambda one, dial, _: policies.Thompson(one.contexts, one.posterior(dial), one.seed)),
    GREEDY: (VARIANCES, lambda one, dial, _: policies.OnPosterior(one.contexts, one.posterior(dial), one.seed)),
    "epsilon-greedy": (SHARES, lambda one, dial, best: policies.EpsilonGreedy(one.contexts, one.posterior(best), one.seed, dial)),
    "upper bound of the posterior": (
        DEVIATIONS, lambda one, dial, best: policies.UpperBound(one.contexts, one.posterior(best), one.seed, dial),
    ),
    "LinUCB": (WIDTHS, lambda one, dial, _: policies.LinUcb(one.contexts, dial)),
    "greedy, nothing learnt": ((0.0,), lambda one, *_: policies.Frozen(one.contexts)),
}  # fmt: skip


def simulated(world: worlds.World, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """(true click probability of what was shown, the best that could have been), (DAYS, requests) each."""
    value, best = np.zeros(world.luck.shape), np.zeros(world.luck.shape)
    for day in range(worlds.DAYS):
        alive = world.alive(day)
        shown, clicked = np.zeros((2, worlds.GROUPS * world.ads))
        for group in range(worlds.GROUPS):
            its = np.flatnonzero(world.groups[day] == group)
            rows, chances = group * world.ads + alive, world.truth[group, alive]
            places = policy.choose(rows, [f"{day}/{number}" for number in its])
            value[day, its], best[day, its] = chances[places], chances.max()
            np.add.at(shown, rows[places], 1)
            np.add.at(clicked, rows[places], world.luck[day, its] < chances[places])
        policy.learn(shown, clicked)
    return value, best


def tuned(seeds: Sequence[int]) -> dict[str, float]:
    """Policy -> the value of its dial with the most value, on cold worlds of these seeds."""
    prepared, chosen = [Prepared("cold", seed) for seed in seeds], dict[str, float]()
    for name, (dials, make) in {GREEDY: POLICIES[GREEDY], **POLICIES}.items():  # greedy first: others stand on its prior variance
        values = {dial: sum(simulated(one.world, make(one, dial, chosen.get(GREEDY, 1.0)))[0].sum() for one in prepared) for dial in dials}
        chosen[name] = max(values, key=lambda dial: values[dial])
        print(name, {dial: round(value / len(seeds), 1) for dial, value in values.items()}, flush=True)
    return chosen


def measured(kind: str, seeds: Sequence[int], chosen: Mapping[str, float]) -> list[contract.Row]:
    """One row per policy in a kind of world."""
    values = {name: np.zeros(len(seeds)) for name in POLICIES}
    regrets = {name: np.zeros((len(seeds), worlds.DAYS)) for name in POLICIES}
    for place, seed in enumerate(seeds):
        one = Prepared(kind, seed)
        for name, (_, make) in POLICIES.items():
            value, best = simulated(one.world, make(one, chosen[name], chosen[GREEDY]))
            values[name][place] = value.sum()
            regrets[name][place] = (best - value).sum(axis=1).cumsum()
    rows: list[contract.Row] = []
    for name in POLICIES:
        row: contract.Row = {"world": kind, "seeds": len(seeds), "road": name, "dial": chosen[name], "value": float(values[name].mean())}
        row |= {"regret": float(regrets[name][:, -1].mean()), "regret_by_day": regrets[name].mean(axis=0).round(3).tolist()}
        if name != THOMPSON:
            gap = paired_interval(values[THOMPSON], values[name])
            row |= {"thompson_minus": gap.difference, "low": gap.low, "high": gap.high}
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--tuning-seeds", nargs="+", type=int, default=list(TUNING_SEEDS))
    parser.add_argument("--worlds", nargs="+", choices=worlds.KINDS, default=list(worlds.KINDS))
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = tuned(options.tuning_seeds)
    rows: list[contract.Row] = []
    for kind in options.worlds:
        rows += measured(kind, options.seeds[: EQUAL if kind == "equal" else None], chosen)
    size = {"seeds": options.seeds, "tuning_seeds": options.tuning_seeds, "days": worlds.DAYS, "requests": worlds.REQUESTS}
    size |= {"known": worlds.KNOWN, "cold": worlds.COLD, "features": FEATURES}
    contract.publish("exploration", size, rows, {}, options.results)


if __name__ == "__main__":
    main()

"""Would exploration have paid on a real log? Open Bandit data: clothes shown at random, so that other policies can be valued.

    pip download --no-deps -r benchmarks/peers/obp.txt -d FOLDER        # the logs lie in the wheel
    python -m benchmarks.off_policy --obp FOLDER/obp-0.4.1-py3-none-any.whl

Three logs of 10,000 impressions (Saito et al., Open Bandit Dataset and Pipeline, 2021), each item with the same, exact probability.
Policies are fitted on the first half; what they would have earned in the second is estimated by inverse propensity scoring (IPS) and doubly
robust (DR; Dudik et al., 2011) with the network's probability as its model. Nothing is tuned. Intervals are over the impressions.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import ExpertConfig, ExplorationConfig, RankingConfig
from alure_spark.metrics import paired_interval
from alure_spark.ranking.exploration import Posterior, normals
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_exploration, ranking_model
from benchmarks import contract
from benchmarks.exploration_policies import Contexts, LinUcb
from benchmarks.ranking_worlds import Drawn

CAMPAIGNS, SEEDS = ("all", "men", "women"), (7, 8, 9)
TRAINED = 0.8  # of the first half; the rest says when training stops
USER, ITEM = tuple(f"user_{place}" for place in range(4)), tuple(f"item_{place}" for place in range(1, 4))
CONFIG = RankingConfig(epochs=10, patience=3, learning_rate=2e-3)
EXPLORATION = ExplorationConfig(features=128)
WIDTH = 1.0  # deviations of LinUCB
DRAWS = 200  # of the function, from which Thompson's probability of showing an item is counted
AT_ONCE = 250  # impressions, each with every item
BEST, UNIFORM = "best item of the first half", "as logged (uniform)"


@dataclass(frozen=True)
class Logs:
    """n impressions of one campaign in the order of time, A items."""

    item: np.ndarray  # (n,) int64
    clicked: np.ndarray  # (n,) float64
    propensity: np.ndarray  # (n,): how likely the item was to be shown
    rows: dict[str, np.ndarray]  # position and USER: (n,) int64 from 1 on
    affinity: np.ndarray  # (n, A)
    item_rows: dict[str, np.ndarray]  # ITEM: (A,) int64 from 1 on
    price: np.ndarray  # (A,): item_feature_0

    def of(self, rows: np.ndarray, items: np.ndarray, clicks: np.ndarray, parts: tuple[int, int, int]) -> Drawn:
        """Impressions rows (m,), each of the items (m, k)."""
        wide = np.ones_like(items)
        codes = {name: its[rows][:, None] * wide for name, its in self.rows.items()}
        codes |= {"item": items + 1} | {name: its[items] for name, its in self.item_rows.items()}
        numbers = {"affinity": np.take_along_axis(self.affinity[rows], items, axis=1), "price": self.price[items]}
        return Drawn(np.full(items.shape, np.nan), clicks, parts, rows=codes, numbers=numbers)


def read_logs(wheel: Path, campaign: str) -> Logs:
    """The uniformly random log of a campaign, from the package's wheel. Raises KeyError where it is not in there."""
    with zipfile.ZipFile(wheel) as files:
        folder = f"obp/dataset/obd/random/{campaign}"
        shown, items = (pd.read_csv(io.BytesIO(files.read(f"{folder}/{name}.csv"))) for name in (campaign, "item_context"))
    shown, items = shown.sort_values("timestamp", kind="stable"), items.sort_values("item_id")
    rows = {"position": shown["position"].to_numpy(np.int64)}
    rows |= {f"user_{place}": _codes(shown[f"user_feature_{place}"]) for place in range(4)}
    return Logs(
        shown["item_id"].to_numpy(np.int64),
        shown["click"].to_numpy(np.float64),
        shown["propensity_score"].to_numpy(np.float64),
        rows,
        shown[[f"user-item_affinity_{item}" for item in items["item_id"]]].to_numpy(np.float64),
        {name: _codes(items[f"item_feature_{place}"]) for place, name in enumerate(ITEM, start=1)},
        items["item_feature_0"].to_numpy(np.float64),
    )


def _codes(values: pd.Series) -> np.ndarray:
    return np.unique(values.astype(str), return_inverse=True)[1].astype(np.int64) + 1


def inverse_propensity(shown: np.ndarray, item: np.ndarray, clicked: np.ndarray, propensity: np.ndarray) -> np.ndarray:
    """(n,) whose mean is the policy's value: shown (n, A) says how likely it shows each item."""
    return np.take_along_axis(shown, item[:, None], axis=1)[:, 0] / propensity * clicked


def doubly_robust(shown: np.ndarray, item: np.ndarray, clicked: np.ndarray, propensity: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(n,) whose mean is the policy's value, with less variance where expected (n, A), a model's click probabilities, is near the truth."""
    of_item = np.take_along_axis(expected, item[:, None], axis=1)[:, 0]
    return (shown * expected).sum(axis=1) + inverse_propensity(shown, item, clicked - of_item, propensity)


def network_of(logs: Logs, learnt: np.ndarray, seed: int) -> tuple[RankingNetwork, Posterior]:
    """Trained on the impressions learnt (m,), and its posterior."""
    training = round(TRAINED * len(learnt))
    order = np.random.default_rng(seed).permutation(learnt)
    drawn = logs.of(order, logs.item[order][:, None], logs.clicked[order][:, None] == 1, (training, len(order) - training, 0))
    loader = MemoryLoader(drawn.batch(test=False), 128, seed)
    widths = {name: int(its.max()) + 1 for name, its in (logs.rows | logs.item_rows).items()} | {"item": len(logs.price) + 1}
    fields = {name: FieldSpec("id", {"size": size}) for name, size in widths.items()}
    fields |= {name: FieldSpec("standardized") for name in ("affinity", "price")}
    draft = RankingSpec(
        fields, {"one": 4}, {"flat": ExpertConfig("flat_dnn", "one", {"hidden": (16,)})}, ("click",), hidden=16, tower=(8,), dropout=0.2
    )
    spec = ranking_model.fitted_spec(draft, loader, _vocabulary(widths))
    network = ranking_model.new_network(spec, loader, seed)
    ranking_model.train(network, loader, CONFIG)
    return network, ranking_exploration.fitted_posteriors(network, loader, EXPLORATION)["click"].posterior


def _vocabulary(widths: dict[str, int]) -> Vocabulary:
    return Vocabulary({name: (np.arange(1, size), np.arange(1, size)) for name, size in widths.items()})


@torch.no_grad()
def _contexts(logs: Logs, network: RankingNetwork, rows: np.ndarray, items: np.ndarray) -> Contexts:
    """What the network has of impressions rows (m,), each with the items (m, k): m * k rows. Clicks are those of the log."""
    drawn = logs.of(rows, items, np.zeros(items.shape, bool), (0, 0, len(rows)))
    logits, hidden = network.with_hidden(drawn.batch(test=True))
    clicked = np.where(items == logs.item[rows][:, None], logs.clicked[rows][:, None], 0.0).ravel()
    return Contexts(hidden["click"], network.calibrated(logits.double())[:, 0], np.ones(items.size), clicked)


Part = tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]


def chances(logs: Logs, learnt: np.ndarray, valued: np.ndarray, seed: int) -> Iterator[Part]:
    """Parts of valued: (impressions (m,), policy -> (m, A) how likely it shows each item, expected (m, A) by the network)."""
    network, posterior = network_of(logs, learnt, seed)
    count, everything = len(logs.price), np.arange(len(logs.price))
    bandit = LinUcb(_contexts(logs, network, learnt, logs.item[learnt][:, None]), WIDTH)
    directions = torch.stack([normals(f"draw {number}", seed, len(posterior.mean)) for number in range(DRAWS)], dim=1)
    best = best_item(logs, learnt)
    for rows in np.array_split(valued, -(-len(valued) // AT_ONCE)):
        contexts = _contexts(logs, network, rows, np.tile(everything, (len(rows), 1)))
        beliefs = posterior.at(contexts.hidden, contexts.logits)
        drawn = (beliefs.mean[:, None] + beliefs.roots @ directions).view(len(rows), count, DRAWS).argmax(dim=1).numpy()
        bounds = bandit.bounds_of(contexts).reshape(len(rows), count)
        found = {
            UNIFORM: np.full((len(rows), count), 1 / count),
            BEST: np.tile((everything == best).astype(float), (len(rows), 1)),
            "greedy": _certain(beliefs.mean.numpy().reshape(len(rows), count)),
            "Thompson": np.stack([np.bincount(its, minlength=count) for its in drawn]) / DRAWS,
            "LinUCB": _certain(bounds),
        }
        yield rows, found, contexts.logits.sigmoid().numpy().reshape(len(rows), count)


def best_item(logs: Logs, learnt: np.ndarray) -> int:
    """The item with the highest click rate among learnt (m,), each with an impression more at the mean rate; of equal ones the first."""
    shown, clicked = (np.bincount(logs.item[learnt], weights, len(logs.price)) for weights in (np.ones(len(learnt)), logs.clicked[learnt]))
    return int(np.argmax((clicked + clicked.sum() / shown.sum()) / (shown + 1)))


def _certain(scores: np.ndarray) -> np.ndarray:
    """(m, A) 1 for the highest score of each line."""
    return (np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]).astype(float)


def measured(logs: Logs, campaign: str, seeds: Sequence[int]) -> list[contract.Row]:
    """One row per policy: its value by both estimators, clicks per 1,000 impressions, and beside the log's and the best item's."""
    half = len(logs.item) // 2
    learnt, valued = np.arange(half), np.arange(half, len(logs.item))
    each: dict[str, dict[str, np.ndarray]] = {}
    for seed in seeds:
        for rows, found, expected in chances(logs, learnt, valued, seed):
            given = logs.item[rows], logs.clicked[rows], logs.propensity[rows]
            for name, shown in found.items():
                its = each.setdefault(name, {kind: np.zeros(len(valued)) for kind in ("ips", "dr", "alike")})
                its["alike"][rows - half] += np.take_along_axis(shown, given[0][:, None], axis=1)[:, 0] / len(seeds)
                its["ips"][rows - half] += 1000 * inverse_propensity(shown, *given) / len(seeds)
                its["dr"][rows - half] += 1000 * doubly_robust(shown, *given, expected) / len(seeds)
    result: list[contract.Row] = []
    for name, its in each.items():
        row: contract.Row = {"set": campaign, "road": name, "impressions": len(valued), "clicks": int(logs.clicked[valued].sum())}
        alike = its.pop("alike")  # how likely the policy would have shown what the log shows
        row |= {"alike": float(alike.sum()), "alike_clicks": float(alike @ logs.clicked[valued])}
        for kind, values in its.items():
            own = paired_interval(values, np.zeros(len(values)))
            row |= {kind: own.difference, f"{kind}_low": own.low, f"{kind}_high": own.high}
            for short, other in (("logged", UNIFORM), ("best", BEST)):
                if name != other:
                    gap = paired_interval(values, each[other][kind])
                    row |= {f"{kind}_minus_{short}{end}": value for end, value in zip(("", "_low", "_high"), gap, strict=True)}
        result.append(row)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--obp", type=Path, required=True, metavar="WHEEL", help="obp-0.4.1-py3-none-any.whl, which holds the logs")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [row for campaign in CAMPAIGNS for row in measured(read_logs(options.obp, campaign), campaign, options.seeds)]
    contract.publish("off_policy", {"seeds": options.seeds, "draws": DRAWS}, rows, {}, options.results)


if __name__ == "__main__":
    main()

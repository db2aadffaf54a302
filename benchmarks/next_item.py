"""Full-corpus next-item ranking by the user model's encoder, beside RecBole's sequence models, under one protocol.

    python -m benchmarks.next_item --recbole-python VENV/bin/python      # VENV: pip install recbole==1.2.1 (its pins are not ours)

ml-100k as RecBole packages it: each user's last rating is the test item, the one before validates, the rest is learnt from, in order of
time (equal times in the file's order). All items are ranked, those already seen too, as RecBole does for sequences. HR@10 and
NDCG@10 over all users; the epoch is chosen by validation on both sides: of 20 passes over the users for ours, of 10 over every prefix of
every history for RecBole's (its defaults, but batches of 256: its 2,048 take twice the time). Paired intervals over users, whose
figures are means over the seeds.

    python -m benchmarks.next_item --recbole-python VENV/bin/python --scaling

asks what depth, width and length are worth (ALURE, section 2.2): ours with one of them changed, and its floating point operations.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from alure_spark.baselines.histories import ItemHistories
from alure_spark.baselines.item_vectors import item_views
from alure_spark.batches.batch import JaggedBatch, SourceTokens, offsets_of, ranges
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import ACCOUNT, ITEM, Vocabulary
from alure_spark.config import ModelConfig, ObjectiveConfig, TrainingConfig
from alure_spark.metrics import cluster_bootstrap
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from alure_spark.training import start, user_training
from benchmarks import contract

SEEDS = (7, 8, 9)
PEERS = ("SASRec", "GRU4Rec", "BERT4Rec")
K, SOURCE = 10, "rating"
# Layers (1, 2, 3), dropout (.2 to .5), the start of the item vectors, frequency and rotary encoding were chosen by seed 7's validation.
MODEL = ModelConfig(
    dimension=64, layers=2, heads=2, feed_forward=256, max_events=200, window=50, residual=False, full_softmax=True, next_items=100_000,
    dropout=0.3,
)  # fmt: skip
TRAINING = TrainingConfig(
    epochs=20, patience=5, batch_users=32, learning_rate=1e-3, item_learning_rate_share=1.0, threads=1,
    objectives=ObjectiveConfig(click=0.0, conversion=0.0, neighbour=0.0, next_item=1.0),
)  # fmt: skip
# One dial of MODEL changed.
SCALING: dict[str, dict[str, int]] = {
    "as above": {},
    "1 layer": {"layers": 1},
    "4 layers": {"layers": 4},
    "width 16": {"dimension": 16, "feed_forward": 64},
    "width 32": {"dimension": 32, "feed_forward": 128},
    "width 128": {"dimension": 128, "feed_forward": 512},
    "10 events": {"max_events": 10, "window": 10},
    "50 events": {"max_events": 50},
}
WIDTH, ITEM2VEC_WINDOW = 64, 4
# Run by RecBole's own Python: trains, and writes each user's rank of the test item.
DRIVER = """
import json, sys, logging
import numpy as np, torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
name, seed, epochs, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
config = Config(model=name, dataset="ml-100k", config_dict={
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "epochs": epochs, "stopping_step": epochs, "seed": seed,
    "reproducibility": True, "train_neg_sample_args": None, "metrics": ["Hit", "NDCG"], "topk": [10], "valid_metric": "NDCG@10",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": None},
    "state": "ERROR", "show_progress": False, "device": "cpu", "use_gpu": False, "checkpoint_dir": target + ".saved", "worker": 0,
    "train_batch_size": 256,
})
init_seed(seed, True)
torch.set_num_threads(1)
dataset = create_dataset(config)
train, valid, test = data_preparation(config, dataset)
init_seed(seed, True)
model = get_model(name)(config, train._dataset).to("cpu")
torch.autograd.set_detect_anomaly(False)  # a module of RecBole's turns this debugging aid on for all
trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
trainer.fit(train, valid, saved=True, show_progress=False)
result = trainer.evaluate(test, load_best_model=True, show_progress=False)
ranks = {}
model.eval()
with torch.no_grad():
    for interaction, _, row, item in test:
        scores = model.full_sort_predict(interaction).view(len(interaction), -1)
        scores[:, 0] = -torch.inf
        mine = scores[row, item]
        rank = (scores[row] > mine[:, None]).sum(1) + 1
        users = dataset.id2token("user_id", interaction["user_id"][row].numpy())
        ranks.update({str(user): int(place) for user, place in zip(users, rank)})
json.dump({"ranks": ranks, "result": {key: float(value) for key, value in result.items()}}, open(target, "w"))
"""


def ratings(python: str) -> pd.DataFrame:
    """user_id, item_id (str), timestamp (s), users one after the other, by time; from RecBole's wheel."""
    where = "import recbole, os; print(os.path.dirname(recbole.__file__))"
    package = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    frame = pd.read_csv(Path(package) / "dataset_example" / "ml-100k" / "ml-100k.inter", sep="\t", dtype=str)
    frame.columns = [name.split(":")[0] for name in frame.columns]
    frame["timestamp"] = frame["timestamp"].astype(float)
    return frame.sort_values(["user_id", "timestamp"], kind="stable").reset_index(drop=True)


def batch_of(frame: pd.DataFrame, held_out: int, border_ms: int) -> tuple[JaggedBatch, np.ndarray]:
    """All users without their last `held_out` ratings, and the rows (B,) of the first one held out.

    What validates (the last but one) is known at border_ms, everything before it earlier; clocks read when it happened.
    """
    users, counts = np.unique(frame["user_id"], return_counts=True)
    ends = counts.cumsum()
    place = np.arange(len(frame)) - np.repeat(ends - counts, counts)  # of a rating in its user's
    left = np.repeat(counts, counts) - place  # 1 at the last
    row = np.unique(frame["item_id"], return_inverse=True)[1] + 1
    happened = (frame["timestamp"].to_numpy() * 1000).astype(np.int64)
    known = np.where(left <= 2, border_ms + 2 - left, np.minimum(happened, border_ms - 1))
    kept = left > held_out
    at = torch.from_numpy(known[kept])
    tokens = SourceTokens(
        offsets_of(torch.from_numpy(counts - held_out)), at, torch.from_numpy(happened[kept]), {ITEM: torch.from_numpy(row[kept])}, {}
    )
    as_of = torch.full((len(users),), border_ms + 10)
    batch = JaggedBatch("all", tuple(users), torch.zeros(len(users), dtype=torch.int64), as_of, {SOURCE: tokens})
    return batch, row[ends - held_out]


def latest(batch: JaggedBatch, events: int) -> JaggedBatch:
    """The last events of every user, which is all that serving holds."""
    tokens = batch.sources[SOURCE]
    lengths = tokens.lengths.clamp(max=events)
    kept = ranges(tokens.offsets[1:] - lengths, lengths)
    cut = SourceTokens(offsets_of(lengths), tokens.known_at_ms[kept], tokens.event_time_ms[kept], {ITEM: tokens.rows[ITEM][kept]}, {})
    return dataclasses.replace(batch, sources={SOURCE: cut})


def started(frame: pd.DataFrame, border_ms: int, config: ModelConfig) -> UserModel:
    """The user model before training, its item vectors those of the training ratings' factorisations, as in the pipeline."""
    learnt, _ = batch_of(frame, 2, border_ms)
    tokens, items = learnt.sources[SOURCE], frame["item_id"].nunique()
    numbers = np.arange(1, items + 1)
    histories = ItemHistories.from_events(tokens.users().numpy(), tokens.rows[ITEM].numpy(), tokens.known_at_ms.numpy())
    found = item_views(histories, config.views, WIDTH, ITEM2VEC_WINDOW, config.seed)
    vocabulary = Vocabulary.from_arrays(np.full(items, ITEM, object), numbers, numbers)
    spec = ModelSpec({SOURCE: {}}, (SOURCE,), {ITEM: items + 1, ACCOUNT: 1}, item_dimension=WIDTH, config=config)
    return start.new_model(spec, vocabulary, found.items, list(found.vectors), found.idf, found.users)


def ours(frame: pd.DataFrame, seed: int, config: ModelConfig, training: TrainingConfig) -> tuple[dict[str, int], float]:
    """(user -> rank of the test item, floating point operations of a user's scores)."""
    border = int(frame["timestamp"].max() * 1000) + 1
    known, target = batch_of(frame, 1, border)
    model = started(frame, border, dataclasses.replace(config, seed=seed))
    when = user_training.Calendar((border - 1,), border, border + 1)
    found = user_training.train(model, MemoryLoader(known, training.batch_users, seed), when, dataclasses.replace(training, seed=seed))
    served = latest(known, config.max_events)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        scores = torch.cat([found.model.next_item_scores(part, SOURCE) for part in MemoryLoader(served, 256, seed).in_order()])
    mine = scores[torch.arange(len(target)), torch.from_numpy(target)]
    ranks = (scores > mine[:, None]).sum(dim=1) + 1
    return dict(zip(known.user_ids, ranks.tolist(), strict=True)), counter.get_total_flops() / len(target)


def recbole(python: str, name: str, seed: int, epochs: int) -> dict[str, int]:
    """User -> rank of the test item. Raises RuntimeError where our reading of the ranks is not RecBole's own metric."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "ranks.json"
        subprocess.run([python, "-c", DRIVER, name, str(seed), str(epochs), str(target)], cwd=folder, check=True, capture_output=True)
        content = json.loads(target.read_text())
    ranks = np.array(list(content["ranks"].values()))
    if abs((ranks <= K).mean() - content["result"]["hit@10"]) > 2e-3:
        raise RuntimeError(f"{name}: HR@10 {(ranks <= K).mean():.4f} by our count, {content['result']['hit@10']} by RecBole's")
    return dict(content["ranks"])


def gains(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per user and seed: whether the item is among the first ten, and its discounted gain."""
    hit = ranks <= K
    return hit.astype(float), np.where(hit, 1 / np.log2(1 + ranks), 0.0)


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(weights @ values / weights.sum())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--recbole-python", required=True, help="a Python that has recbole==1.2.1")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--epochs", type=int, default=0, help="of each side; 0: 10 for the peers, at most 20 for ours")
    parser.add_argument("--scaling", action="store_true", help="ours in other sizes instead of the peers")
    options = parser.parse_args(arguments)
    frame = ratings(options.recbole_python)
    size: contract.Row = {"users": frame["user_id"].nunique(), "items": frame["item_id"].nunique(), "ratings": len(frame)}
    users = np.unique(frame["user_id"])
    training = dataclasses.replace(TRAINING, epochs=options.epochs or TRAINING.epochs)
    if options.scaling:
        for rows in scaling(frame, users, training, options):  # an hour in all: what a size found is published before the next one starts
            contract.publish("scaling", size | {"seeds": options.seeds}, rows, {}, options.results)
        return
    methods = ("ours", *options.peers)
    ranks: dict[str, list[np.ndarray]] = {method: [] for method in methods}
    costs: dict[str, list[contract.Row]] = {method: [] for method in methods}
    for seed in options.seeds:  # hours in all: what a seed found is published before the next one starts
        for method in methods:
            with contract.measured({}, interval_s=1.0) as cost:
                if method == "ours":
                    found, _ = ours(frame, seed, MODEL, training)
                else:
                    found = recbole(options.recbole_python, method, seed, options.epochs or 10)
            ranks[method].append(np.array([found[user] for user in users]))
            costs[method].append(cost)
            print(f"seed {seed}, {method}: HR@{K} {(ranks[method][-1] <= K).mean():.4f}, {cost['seconds_cpu']:.0f} CPU s", flush=True)
        rows = [summary(method, ranks[method], costs[method]) for method in methods]
        for row in rows[1:]:
            row |= gap("ours_minus", ranks["ours"], ranks[row["road"]], users, options.resamples)
        contract.publish("next_item", size | {"seeds": options.seeds[: len(ranks["ours"])]}, rows, {}, options.results)


def scaling(frame: pd.DataFrame, users: np.ndarray, training: TrainingConfig, options: argparse.Namespace) -> Iterator[list[contract.Row]]:
    """The rows so far after each size of the model, minus the model as it is."""
    usual: list[np.ndarray] = []
    rows: list[contract.Row] = []
    for size, dials in SCALING.items():
        config = dataclasses.replace(MODEL, **dials)  # type: ignore[arg-type]
        ranks, costs = [], []
        for seed in options.seeds:
            with contract.measured({}, interval_s=1.0) as cost:
                found, operations = ours(frame, seed, config, training)
            ranks.append(np.array([found[user] for user in users]))
            costs.append(cost)
        usual = usual or ranks
        row = summary(size, ranks, costs) | {"mflop_per_user": operations / 1e6}
        rows.append(row if ranks is usual else row | gap("minus_usual", ranks, usual, users, options.resamples))
        yield rows


def summary(method: str, ranks: list[np.ndarray], costs: list[contract.Row]) -> contract.Row:
    """Means over the seeds so far, and the cost of all of them."""
    hit, gain = gains(np.array(ranks))
    by_seed = gain.mean(1)
    row: contract.Row = {"road": method, "hr": float(hit.mean()), "ndcg": float(gain.mean())}
    row |= {"ndcg_min": float(by_seed.min()), "ndcg_max": float(by_seed.max())}
    row |= {key: sum(cost[key] for cost in costs) for key in ("seconds_wall", "seconds_cpu")}
    return row | {"peak_mb": max(cost["peak_mb"] for cost in costs)}


def gap(name: str, mine: list[np.ndarray], theirs: list[np.ndarray], users: np.ndarray, resamples: int) -> contract.Row:
    """NDCG of the one minus that of the other, with the paired interval over users."""
    difference = gains(np.array(mine))[1].mean(0) - gains(np.array(theirs))[1].mean(0)
    interval = cluster_bootstrap(functools.partial(_mean, difference), users, resamples)
    return {name: float(difference.mean()), "low": interval.low, "high": interval.high}


if __name__ == "__main__":
    main()

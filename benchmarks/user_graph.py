"""Is the user graph that the pipeline builds a good one? Recall@50 of later items through its edges, beside the classic peers.

    python -m benchmarks.user_graph --online-retail /data/online_retail.parquet

Quality, not speed: each set is mapped by its conf alone, the project's own jobs run from ingestion to build_graph into a
temporary lake, and the first ten edges of each user are evaluated (alure_spark/analysis/protocol.py). The peers see exactly the
same rows (the pipeline's cleaned `events`), obey the same borders (a user's country is that of the last event before the cut)
and are recomputed in the same run. One run with stated seeds: the randomised ones are averaged over the seeds, per user.
Intervals: paired bootstrap over users, the pipeline minus the peer.

    python -m benchmarks.user_graph --curves --online-retail PATH

asks what the graph owes to the shape of the model: the pipeline with one setting changed, beside the pipeline as it is, and what the
method from training to graph costs.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import functions as F
from scipy import sparse
from threadpoolctl import threadpool_limits

from alure_spark.analysis import evaluation
from alure_spark.analysis.protocol import ListQuality, evaluate_neighbours
from alure_spark.baselines.histories import ItemHistories
from alure_spark.baselines.item_vectors import ItemVectors, embed, fit_item2vec, fit_svd, item_views
from alure_spark.baselines.neighbours import embedding_neighbours, idf_cosine_neighbours, random_neighbours
from alure_spark.clock import format_time
from alure_spark.config import load
from alure_spark.lake import as_of_scope
from alure_spark.metrics import paired_interval
from alure_spark.running import Context, open_context, run_jobs
from benchmarks import contract
from jobs import pipeline

CONFS = {"completejourney": "conf/demo.yml", "online_retail": "conf/online_retail.yml"}
NEIGHBOURS, K, MIN_ITEMS, HISTORY_SHARE = 10, 50, 5, 0.7  # the protocol, fixed
FOREVER_MS = 2**61
# One thing changed: numbers per view (an embedding has two views), compression of states, what is read of them (ALURE, section 2.3).
CURVES = {
    "dimension 16": ["embedding.dimension=16"],
    "dimension 32": ["embedding.dimension=32"],
    "dimension 128": ["embedding.dimension=128"],
    "compression dot_product": ["model.compression=dot_product"],
    "compression attention": ["model.compression=attention"],
    "states of layer 0": ["model.read_layers=[0]"],
    "states of layers 0 and 1": ["model.read_layers=[0,1]"],
    "two layers": ["model.layers=2"],
    "last 4 positions": ["model.read_positions=4"],
}
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Split:
    """One set, cut in time: the eligible users (U) and the items that somebody had before the cut (I)."""

    as_of_ms: int  # the cut: history is known_at < as_of
    histories: ItemHistories  # of the U eligible users
    had: sparse.csr_matrix  # (U, I)
    later: sparse.csr_matrix  # (U, I)
    popularity: np.ndarray  # (I,) users (eligible or not) that had it before the cut
    countries: np.ndarray  # (U,)

    def evaluate(self, neighbours: np.ndarray) -> ListQuality:
        return evaluate_neighbours(self.had, self.later, neighbours, self.popularity, K)


def run_pipeline(conf: str, overrides: Sequence[str], first: str, last: str) -> Context:
    """The project's own jobs from the first to the last stage; returns the context, whose lake holds what they published."""
    context = open_context(load(ROOT / conf, overrides))
    run_jobs(context, pipeline.stages(first, last), "benchmark_user_graph")
    return context


def split_events(context: Context) -> Split:
    """The protocol's split of the cleaned events: at the 70 % quantile of the first (user, item) rows' times."""
    events = context.lake.read("events").where("item_hash IS NOT NULL")
    pairs: pd.DataFrame = evaluation.item_pairs(
        events, context.config.evaluate.item_sources or context.config.item_sources, FOREVER_MS
    ).toPandas()
    cut = math.ceil(pairs["known_ms"].quantile(HISTORY_SHARE))
    before, after = pairs[pairs["known_ms"] < cut], pairs[pairs["known_ms"] >= cut]
    everybody = ItemHistories.from_events(before["user_id"].to_numpy(), before["item_hash"].to_numpy(), before["known_ms"].to_numpy())
    histories = everybody.select(everybody.counts >= MIN_ITEMS)
    users, items = histories.user_ids, everybody.vocabulary()
    after = after[after["user_id"].isin(users) & after["item_hash"].isin(items)]
    cells = (np.searchsorted(users, after["user_id"].to_numpy()), np.searchsorted(items, after["item_hash"].to_numpy()))
    population: pd.DataFrame = evaluation.population(events, cut, 0).toPandas()
    country = population.set_index("user_id")["country"]
    return Split(
        as_of_ms=cut,
        histories=histories,
        had=histories.matrix(items),
        later=sparse.csr_matrix((np.ones(len(after)), cells), shape=(len(users), len(items))),
        popularity=np.asarray(everybody.matrix(items).sum(axis=0)).ravel(),
        countries=country.reindex(users).to_numpy(),
    )


def pipeline_neighbours(context: Context, split: Split) -> np.ndarray:
    """(U, 10) rows of eligible users, by rank, out of the `user_edges` that the pipeline published; -1 where there is none."""
    edges = (
        context.lake.read("user_edges")
        .where(as_of_scope(split.as_of_ms))
        .where((F.col("graph") == "alure") & (F.col("rank") <= NEIGHBOURS))
    )
    links: pd.DataFrame = edges.select("src_user_id", "dst_user_id", "rank").toPandas()
    row = {user: index for index, user in enumerate(split.histories.user_ids)}
    strangers = (set(links["src_user_id"]) | set(links["dst_user_id"])) - set(row)
    if strangers:
        raise AssertionError(f"{len(strangers)} users of the pipeline's edges are not eligible, e.g. {sorted(strangers)[:3]}")
    neighbours = np.full((len(row), NEIGHBOURS), -1, np.int64)
    neighbours[links["src_user_id"].map(row), links["rank"] - 1] = links["dst_user_id"].map(row)
    return neighbours


def weighted_svd(split: Split, seed: int) -> np.ndarray:
    """(U, 10) neighbours by sums of the model's own SVD view with weights of the root of idf: where it starts, nothing learnt."""
    views = item_views(split.histories, ["svd"], 64, 1, seed)
    vectors = views.vectors[0] * np.sqrt(views.idf)[:, None].astype(np.float32)
    users = embed(split.histories.indptr, split.histories.items, ItemVectors(views.items, vectors))
    return embedding_neighbours(users, split.countries, NEIGHBOURS)


def peers(split: Split) -> dict[str, tuple[bool, Callable[[int], np.ndarray]]]:
    """Method -> (does the seed matter, seed -> (U, 10) neighbours)."""

    def nearest(model: ItemVectors) -> np.ndarray:
        return embedding_neighbours(embed(split.histories.indptr, split.histories.items, model), split.countries, NEIGHBOURS)

    def als(seed: int, **dials: float) -> np.ndarray:
        from implicit.als import AlternatingLeastSquares

        with threadpool_limits(1, "blas"):  # implicit calls BLAS from its own threads, and warns otherwise
            model = AlternatingLeastSquares(factors=64, random_state=seed, use_gpu=False, num_threads=2, **dials)
            model.fit(split.had.astype(np.float32), show_progress=False)
        return embedding_neighbours(model.user_factors, split.countries, NEIGHBOURS)

    return {
        "random_neighbours": (True, lambda seed: random_neighbours(split.countries, NEIGHBOURS, seed)),
        "popularity": (False, lambda seed: np.full((len(split.countries), NEIGHBOURS), -1)),
        "idf_cosine": (False, lambda seed: idf_cosine_neighbours(split.had, split.countries, NEIGHBOURS)),
        "svd_16": (True, lambda seed: nearest(fit_svd(split.histories, 16, seed))),
        "svd_64": (True, lambda seed: nearest(fit_svd(split.histories, 64, seed))),
        "svd_64_weighted": (True, lambda seed: weighted_svd(split, seed)),
        "als_64": (True, als),
        "als_64_alpha_10": (True, lambda seed: als(seed, alpha=10.0, regularization=0.1)),
        "item2vec_64_window_4": (True, lambda seed: nearest(fit_item2vec(split.histories, 64, 4, seed))),
        "item2vec_64_window_8": (True, lambda seed: nearest(fit_item2vec(split.histories, 64, 8, seed))),
    }


def prepared(name: str, overrides: Sequence[str]) -> tuple[Split, int, list[str]]:
    """(split, countries with events, settings of the further runs): ingested, cut in time, sequences built up to the cut."""
    fixed = [*overrides, f"embedding.min_items={MIN_ITEMS}", "graph.recall_queries=0", "graph.compare_roads=false"]
    ingested = run_pipeline(CONFS[name], fixed, "ingest_events", "ingest_events")
    countries = ingested.lake.read("events").select("country").distinct().count()
    split = split_events(ingested)
    fixed.append(f"time.as_of={format_time(split.as_of_ms)}")
    run_pipeline(CONFS[name], fixed, "build_sequences", "build_sequences")
    return split, countries, fixed


def evaluate_set(
    name: str, overrides: Sequence[str], seeds: Sequence[int], resamples: int
) -> tuple[dict, list[contract.Row], dict[str, float]]:
    """(size, one row per method, ratio over the best peer) of one set: the pipeline once per seed, the peers, paired differences."""
    split, countries, fixed = prepared(name, overrides)
    methods: dict[str, tuple[bool, Callable[[int], np.ndarray]]] = {
        "pipeline": (True, lambda seed: _pipeline_of_seed(name, fixed, seed, split)),
        **peers(split),
    }
    rows, recalls = evaluated_methods(name, methods, split, seeds)
    ours = recalls["pipeline"]
    for row in rows[1:]:
        gap = paired_interval(ours.mean(axis=0), recalls[row["road"]].mean(axis=0), resamples)
        row |= {"pipeline_minus": gap.difference, "low": gap.low, "high": gap.high}
    best = max(rows[1:], key=lambda row: row["recall"])
    theirs = np.nanmean(recalls[best["road"]], axis=1)
    ratio = contract.spread((np.nanmean(ours, axis=1) / theirs).tolist())
    size = {"eligible_users": len(split.countries), "judged_users": rows[0]["users"], "items": split.had.shape[1]}
    size |= {
        "countries": len(set(split.countries)),
        "countries_with_events": countries,
        "cut": format_time(split.as_of_ms),
        "best_peer": best["road"],
    }
    return size, rows, ratio


def evaluated_methods(
    name: str, methods: dict[str, tuple[bool, Callable[[int], np.ndarray]]], split: Split, seeds: Sequence[int]
) -> tuple[list[contract.Row], dict[str, np.ndarray]]:
    """One row per method, and its recall (seeds, U)."""
    rows, recalls = [], {}
    for method, (seeded, neighbours) in methods.items():
        used = list(seeds) if seeded else list(seeds[:1])
        row: contract.Row = {"set": name, "road": method}
        with contract.measured(row):
            evaluated = [split.evaluate(neighbours(seed)) for seed in used]
        recalls[method] = np.asarray([one.recall for one in evaluated])
        row |= {"seeds": len(used), "users": int(np.isfinite(recalls[method][0]).sum())}
        row |= {"recall": float(np.nanmean(recalls[method])), "ndcg": float(np.nanmean([one.ndcg for one in evaluated]))}
        rows.append(row)
        print(contract.table([row]), flush=True)
    return rows, recalls


def curves_of(name: str, overrides: Sequence[str], curves: Sequence[str], seeds: Sequence[int], resamples: int) -> list[contract.Row]:
    """One row per shape of the model, minus the pipeline as it is."""
    split, _, fixed = prepared(name, overrides)

    def method(shape: str) -> tuple[bool, Callable[[int], np.ndarray]]:
        # A registered model of its own: no gate may keep the champion of another shape.
        model, settings = shape.replace(" ", "_"), [*fixed, *CURVES.get(shape, [])]
        return True, lambda seed: _pipeline_of_seed(name, settings, seed, split, model)

    rows, recalls = evaluated_methods(name, {shape: method(shape) for shape in ("as it is", *curves)}, split, seeds)
    for row in rows:
        config = load(ROOT / CONFS[name], CURVES.get(row["road"], []))
        row["numbers"] = len(config.model.views) * config.embedding.dimension
        row["seconds_cpu"] /= len(seeds)
        if row["road"] in CURVES:
            gap = paired_interval(recalls[row["road"]].mean(axis=0), recalls["as it is"].mean(axis=0), resamples)
            row |= {"minus_usual": gap.difference, "low": gap.low, "high": gap.high}
    return rows


def _pipeline_of_seed(name: str, fixed: Sequence[str], seed: int, split: Split, model: str = "user_graph") -> np.ndarray:
    sections = ("embedding", "model", "training", "graph")
    overrides = [*fixed, *(f"{section}.seed={seed}" for section in sections), f"tracking.model_name={model}_{seed}"]
    return pipeline_neighbours(run_pipeline(CONFS[name], overrides, "train_model", "build_graph"), split)


@contextmanager
def _workdir(name: str, online_retail: Path):  # type: ignore[no-untyped-def]
    """The overrides that keep a run inside a temporary folder."""
    with tempfile.TemporaryDirectory(prefix=f"user_graph_{name}_") as folder:
        overrides = contract.places(folder)
        if name == "online_retail":
            Path(folder, "online_retail.parquet").symlink_to(online_retail.resolve(strict=True))
            overrides.append(f"source.options.root={folder}")
        yield overrides


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--online-retail", type=Path, metavar="PATH", help="online_retail.parquet (without it that set is left out)")
    parser.add_argument("--sets", nargs="+", choices=sorted(CONFS), default=sorted(CONFS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--curves", nargs="*", choices=CURVES, help="the shapes of the model instead of the peers; all of them, or these")
    options = parser.parse_args(arguments)
    size: dict[str, Any] = {"seeds": options.seeds, "resamples": options.resamples, "neighbours": NEIGHBOURS, "k": K}
    result = "user_graph" if options.curves is None else "user_graph_curves"
    rows = contract.earlier(result, lambda row: row["set"] not in options.sets) if options.curves is not None else []
    ratios = {}
    for name in options.sets:  # an hour in all: what a set found is published before the next one starts
        if name == "online_retail" and options.online_retail is None:
            print("online_retail is left out: give --online-retail PATH")
            continue
        with _workdir(name, options.online_retail) as overrides:
            if options.curves is not None:
                rows += curves_of(name, overrides, options.curves or list(CURVES), options.seeds, options.resamples)
            else:
                size[name], more, ratios[f"{name}_over_best_peer"] = evaluate_set(name, overrides, options.seeds, options.resamples)
                rows += more
        contract.publish(result, size, rows, ratios)


if __name__ == "__main__":
    main()

"""Personalised PageRank for many sources: truncated push beside power iteration (scipy) and an exact solver (igraph).

    python -m benchmarks.pagerank

A follow graph with communities, hubs and strengths. Every method answers sources of the same graph; slow ones answer the first few of
the sample. Precision: the share of a method's first 50 that are among the first 50 of 80 iterations, whose error is below 1e-5. First
every number of ours is asserted to be within its bound. `ours in Spark` is the job's own function for all users of a smaller graph, from
a DataFrame to edges.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import igraph
import numpy as np
import pandas as pd
from pyspark.sql import functions as F
from scipy import sparse

from alure_spark.config import GraphConfig, PageRankConfig, SparkConfig
from alure_spark.graph.follows import pagerank_edges
from alure_spark.graph.pagerank import Ranks, personalised_pagerank, transitions
from alure_spark.session import get_session
from benchmarks import contract

K, TRUTH_ITERATIONS, PEER_ITERATIONS = 50, 80, 20
FOLLOWS, COMMUNITY, OWN_SHARE = 15, 500, 0.8  # of a user; users of a community; share of follows inside it
CONFIG = PageRankConfig()
SCIPY_BLOCK = 32


def follow_graph(users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(source, target, strength) of 15 follows per user: most inside the own community, its first members far more often."""
    random = np.random.default_rng(seed)
    source = np.repeat(np.arange(users), FOLLOWS)
    communities = max(1, users // COMMUNITY)
    member = (random.random(len(source)) ** 2 * COMMUNITY).astype(np.int64)
    inside = np.minimum(source % communities + communities * member, users - 1)
    target = np.where(random.random(len(source)) < OWN_SHARE, inside, random.integers(0, users, len(source)))
    kept = source != target
    return source[kept], target[kept], random.random(kept.sum()) + 0.2


def by_power_iteration(walk: sparse.csr_matrix, sources: np.ndarray, iterations: int) -> np.ndarray:
    """(S, N) float64: the plain recipe, a block of dense columns."""
    back, go_on = walk.T.tocsr().astype(np.float64), 1 - CONFIG.restart
    blocks = []
    for start in range(0, len(sources), SCIPY_BLOCK):
        some = sources[start : start + SCIPY_BLOCK]
        begin = np.zeros((walk.shape[0], len(some)))
        begin[some, np.arange(len(some))] = CONFIG.restart
        found = begin
        for _ in range(iterations):
            found = go_on * (back @ found) + begin
        blocks.append(found.T)
    return np.concatenate(blocks)


def first(scores: np.ndarray, sources: np.ndarray) -> list[set[int]]:
    """The K best nodes of each row, the source left out."""
    scores = scores.copy()
    scores[np.arange(len(sources)), sources] = -1
    return [set(row.tolist()) for row in np.argpartition(-scores, K, axis=1)[:, :K]]


def precision(found: Sequence[set[int]], truth: Sequence[set[int]]) -> float:
    return float(np.mean([len(mine & theirs) / K for mine, theirs in zip(found, truth, strict=False)]))


def assert_bound(ranks: Ranks, truth: np.ndarray) -> None:
    """found <= truth <= found + left, up to float32 and the truth's own error."""
    theirs = truth[ranks.row, ranks.node]
    wrong = (ranks.weight > theirs + 1e-5) | (theirs > ranks.weight + ranks.left[ranks.row] + 1e-5)
    if wrong.any():
        raise AssertionError(f"{int(wrong.sum())} of {len(wrong)} numbers are outside their bound")


def in_spark(users: int, seed: int, row: contract.Row) -> None:
    """Fills the row with the job's own method for all users of a graph of that size."""
    source, target, strength = follow_graph(users, seed)
    spark = get_session(SparkConfig(master="local[2]"), "benchmark_pagerank")
    with tempfile.TemporaryDirectory() as folder:
        frame = pd.DataFrame({"src": source, "dst": target, "strength": strength}).drop_duplicates(["src", "dst"])
        path = f"{folder}/follows.parquet"
        frame.to_parquet(path)
        named = spark.read.parquet(path).select(
            F.lit("A").alias("country"),
            *(F.concat(F.lit("user"), F.col(c)).alias(f"{c}_user_id") for c in ("src", "dst")),
            "strength",
            *(F.lit(True).alias(f"{c}_known") for c in ("src", "dst")),
        )
        work = Path(folder) / "work"
        work.mkdir()
        with contract.measured(row):
            edges = pagerank_edges(named, GraphConfig(k2=15, pagerank=CONFIG), 0, str(work))
            edges.write.mode("overwrite").parquet(f"{folder}/edges")
        row["sources"] = spark.read.parquet(f"{folder}/edges").select("src_user_id").distinct().count()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--spark-users", type=int, default=50_000)
    parser.add_argument("--sources", type=int, default=2048, help="that ours answers; scipy answers 32 of them, igraph 4")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    source, target, strength = follow_graph(options.users, 7)
    walk = transitions(source, target, strength, options.users)
    sample = np.random.default_rng(8).choice(options.users, options.sources, replace=False)
    few, fewest = sample[:SCIPY_BLOCK], sample[:4]
    values = by_power_iteration(walk, few, TRUTH_ITERATIONS)
    truth = first(values, few)
    network = igraph.Graph(n=options.users, edges=np.stack(walk.nonzero(), axis=1), directed=True)
    weights = walk.data.astype(float).tolist()

    methods: dict[str, list[contract.Row]] = {"ours": [], "scipy, 20 iterations": [], "igraph": []}
    hits: dict[str, float] = {}
    for _ in range(options.repetitions):
        for method, rows in methods.items():
            asked = {"ours": sample, "igraph": fewest}.get(method, few)
            row: contract.Row = {"road": method, "sources": len(asked)}
            with contract.measured(row):
                if method == "ours":
                    ranks = personalised_pagerank(walk, asked, K, CONFIG)
                elif method == "igraph":
                    solved = [
                        network.personalized_pagerank(damping=1 - CONFIG.restart, reset_vertices=[int(one)], weights=weights)
                        for one in asked
                    ]
                else:
                    iterated = by_power_iteration(walk, asked, PEER_ITERATIONS)
            rows.append(row)
        mine = [set(ranks.node[ranks.row == row].tolist()) for row in range(len(few))]
        head = ranks.row < len(few)
        assert_bound(ranks._replace(row=ranks.row[head], node=ranks.node[head], weight=ranks.weight[head]), values)
        hits = {
            "ours": precision(mine, truth),
            "scipy, 20 iterations": precision(first(iterated, few), truth),
            "igraph": precision(first(np.array(solved), fewest), truth),
        }
    rate = {method: [row["sources"] / row["seconds_cpu"] for row in rows] for method, rows in methods.items()}
    table: list[contract.Row] = []
    for method, rows in methods.items():
        table.append(
            {
                "users": options.users,
                **contract.middle(rows),
                "per_core_second": float(np.median(rate[method])),
                "precision_at_50": hits[method],
            }
        )
    if options.spark_users:
        row = {"users": options.spark_users, "road": "ours in Spark, all users, first 15"}
        in_spark(options.spark_users, 7, row)
        row["per_core_second"] = row["sources"] / row["seconds_cpu"]
        table.append(row)
    ratios = {
        "vs_scipy": contract.spread([a / b for a, b in zip(rate["ours"], rate["scipy, 20 iterations"], strict=True)]),
        "vs_igraph": contract.spread([a / b for a, b in zip(rate["ours"], rate["igraph"], strict=True)]),
        "precision_at_50": contract.spread([hits["ours"]]),
    }
    size = {"users": options.users, "follows": int(walk.nnz), "least_share": CONFIG.least_share, "restart": CONFIG.restart}
    size |= {"left_mean": float(ranks.left.mean()), "repetitions": options.repetitions}
    contract.publish("pagerank", size, table, ratios, options.results)


if __name__ == "__main__":
    main()

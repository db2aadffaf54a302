"""The 15 nearest users of every user: our two methods beside what FAISS offers, one core each, and our method inside Spark.

    python -m benchmarks.knn_graph                       # 20 k and 200 k users, even and skewed clusters
    python -m benchmarks.knn_graph --users 1000000 --skews 1.0 --repetitions 1

Vectors are noisy members of communities whose sizes follow a Zipf law with exponent `skew`; skew 0: even sizes. Methods that probe
share one set of centroids (ours, fitted before the clock starts) and probe the 50 nearest of them. Ours and big_batch_search answer all
users, the others the same 20,000 of them. Before anything is published, ours is asserted to find what IVFFlat finds (for all but one
user in a thousand); recall is against exact search.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from faiss.contrib.big_batch_search import big_batch_search
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from alure_spark.arrow import matrix_column
from alure_spark.config import GraphConfig, SparkConfig
from alure_spark.graph.edges import similarity_edges
from alure_spark.graph.kmeans import fit_country
from alure_spark.graph.search import nearest, neighbours
from alure_spark.session import get_session
from benchmarks import contract

D, K, SAMPLE, EVALUATED = 64, 15, 20_000, 1000
CONFIG = GraphConfig(search="probed")
COMMUNITIES, NOISE = 2000, 0.11  # standard deviation of each of the 64 numbers around a unit vector: cosine of two members about .56

Found = np.ndarray  # (Q, K) positions, -1 where there are fewer


def community_vectors(users: int, skew: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(users, D) float32 of unit norm; (users,) the community of each."""
    random = np.random.default_rng(seed)
    middle = random.standard_normal((COMMUNITIES, D))
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    share = np.arange(1, COMMUNITIES + 1) ** -skew
    community = random.choice(COMMUNITIES, users, p=share / share.sum())
    vectors = (middle[community] + NOISE * random.standard_normal((users, D))).astype(np.float32)
    faiss.normalize_L2(vectors)
    return vectors, community


def user_ids(users: int) -> np.ndarray:
    return np.char.add("u", np.char.zfill(np.arange(users).astype(str), 8)).astype(object)


def without_itself(found: np.ndarray, queries: np.ndarray) -> Found:
    """The first K of the K + 1 found that are not the query itself."""
    order = np.argsort(found == queries[:, None], axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)[:, :K]


def ours(vectors: np.ndarray, ids: np.ndarray, centroids: np.ndarray | None) -> Found:
    """Every user's neighbours by graph.search, on the probed method where centroids are given."""
    if centroids is None:
        pairs = neighbours(vectors, ids, vectors, ids, K)
    else:
        _, lists = nearest(vectors, centroids, CONFIG.k1_probed)
        pairs = neighbours(vectors, ids, vectors, ids, K, lists, lists[:, 0])
    found = np.full((len(vectors), K), -1)
    found[pairs.row, np.arange(len(pairs.row)) - np.searchsorted(pairs.row, pairs.row)] = pairs.position
    return found


def inverted_lists(vectors: np.ndarray, centroids: np.ndarray) -> faiss.IndexIVF:
    """FAISS's own index over the same centroids."""
    coarse = faiss.IndexFlatIP(D)
    coarse.add(centroids)
    index = faiss.IndexIVFFlat(coarse, D, len(centroids), faiss.METRIC_INNER_PRODUCT)
    index.nprobe = CONFIG.k1_probed
    index.add(vectors)
    return index


def fast_scan(vectors: np.ndarray, centroids: np.ndarray) -> faiss.Index:
    """4-bit product quantisation with exact re-ranking of ten times as many."""
    coarse = faiss.IndexFlatIP(D)
    coarse.add(centroids)
    codes = faiss.IndexIVFPQFastScan(coarse, D, len(centroids), 32, 4, faiss.METRIC_INNER_PRODUCT)
    codes.nprobe = CONFIG.k1_probed
    refined = faiss.IndexRefineFlat(codes)
    refined.k_factor = 10
    refined.train(vectors[:100_000])
    refined.add(vectors)
    return refined


def graph_index(vectors: np.ndarray) -> faiss.Index:
    index = faiss.IndexHNSWFlat(D, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 32
    index.add(vectors)
    return index


def recall(found: Found, asked: np.ndarray, evaluated: np.ndarray, truth: list[set[int]]) -> float:
    place = np.searchsorted(asked, evaluated)
    return float(np.mean([len(set(found[p].tolist()) & best) / K for p, best in zip(place, truth, strict=True)]))


def assert_equal(mine: Found, theirs: Found, vectors: np.ndarray, asked: np.ndarray) -> None:
    """Both found neighbours of the same similarity, place by place (whose ids may differ in ties)."""
    one, other = (np.sort(np.einsum("qd,qkd->qk", vectors[asked], vectors[found]), axis=1) for found in (mine, theirs))
    wrong = np.abs(one - other).max(axis=1) > 1e-5
    if wrong.mean() > 1e-3:  # a list on the border of the 50 nearest may differ by float32
        raise AssertionError(f"{int(wrong.sum())} of {len(asked)} users have other neighbours than with IVFFlat")


def in_spark(spark: SparkSession, vectors: np.ndarray, centroids: np.ndarray, events: Path, row: contract.Row) -> None:
    """Fills the row with the job's own method, from a table of users and clusters to a table of edges."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "units").mkdir()
        cluster = nearest(vectors, centroids, 1)[1][:, 0].astype(np.int32)
        table = pa.table({"user_id": user_ids(len(vectors)), "embedding": matrix_column(vectors)})
        pq.write_table(table, f"{folder}/users.parquet", row_group_size=20_000)
        named = (F.lit("A").alias("country"), F.timestamp_millis(F.lit(0)).alias("as_of"))
        users = spark.read.parquet(f"{folder}/users.parquet").select("*", *named)
        sizes = np.bincount(cluster, minlength=len(centroids))
        listed = [("A", number, one.tolist(), int(size)) for number, (one, size) in enumerate(zip(centroids, sizes, strict=True))]
        fitted = spark.createDataFrame(listed, "country string, cluster_id int, centroid array<float>, size bigint")
        before = contract.shuffled_bytes(events)
        with contract.measured(row):
            similarity_edges(users, fitted, CONFIG, f"{folder}/units").write.parquet(f"{folder}/edges")
        if spark.read.parquet(f"{folder}/edges").count() < 0.99 * K * len(vectors):
            raise AssertionError("the job's graph lacks edges")
        row["shuffle_mb"] = (contract.shuffled_bytes(events) - before) / 2**20  # the count above made sure that the log is written


def one_world(
    users: int, skew: float, repetitions: int, spark: SparkSession, events: Path
) -> tuple[list[contract.Row], dict[str, list[float]]]:
    """The rows of one size and skew, and the ratios of each repetition."""
    vectors, ids = community_vectors(users, skew, 7)[0], user_ids(users)
    centroids = fit_country(vectors[: CONFIG.kmeans_points_per_cluster * CONFIG.k1], users, CONFIG).centroids
    some = np.sort(np.random.default_rng(8).choice(users, min(SAMPLE, users), replace=False))
    evaluated = np.sort(np.random.default_rng(9).choice(some, min(EVALUATED, len(some)), replace=False))
    everybody = np.arange(users)
    flat = faiss.IndexFlatIP(D)
    flat.add(vectors)
    truth = [set(row) for row in without_itself(flat.search(vectors[evaluated], K + 1)[1], evaluated).tolist()]
    lists = inverted_lists(vectors, centroids)
    built: dict[str, contract.Row] = {name: {} for name in ("IVF400,PQ32x4fs, re-ranked", "HNSW32, ef 32")}
    with contract.measured(built["IVF400,PQ32x4fs, re-ranked"]):
        codes = fast_scan(vectors, centroids)
    with contract.measured(built["HNSW32, ef 32"]):
        small_world = graph_index(vectors)

    def asks(index: faiss.Index) -> Callable[[], Found]:
        return lambda: without_itself(index.search(vectors[some], K + 1)[1], some)

    def list_by_list() -> Found:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line per list
            return without_itself(big_batch_search(lists, vectors, K + 1)[1], everybody)

    methods: dict[str, tuple[np.ndarray, Callable[[], Found]]] = {
        "ours, probed": (everybody, lambda: ours(vectors, ids, centroids)),
        "IVF400,Flat": (some, asks(lists)),
        "IndexFlatIP": (some, asks(flat)),
        "IVF400,PQ32x4fs, re-ranked": (some, asks(codes)),
        "HNSW32, ef 32": (some, asks(small_world)),
        "big_batch_search": (everybody, list_by_list),
    }
    if users <= 200_000:
        methods["ours, exact"] = (everybody, lambda: ours(vectors, ids, None))
    rows: dict[str, list[contract.Row]] = {method: [] for method in methods}
    found: dict[str, Found] = {}
    for _ in range(repetitions):
        for method, (asked, search) in methods.items():
            row: contract.Row = {"users": users, "skew": skew, "road": method, "asked": len(asked)}
            with contract.measured(row):
                found[method] = search()
            rows[method].append(row)
    assert_equal(found["ours, probed"][some], found["IVF400,Flat"], vectors, some)
    rate = {method: np.array([row["asked"] / row["seconds_cpu"] for row in measured]) for method, measured in rows.items()}
    hits = {method: recall(found[method], methods[method][0], evaluated, truth) for method in methods}
    table = []
    for method, measured in rows.items():
        made = {"build_seconds_cpu": built[method]["seconds_cpu"]} if method in built else {}
        table.append({**contract.middle(measured), "per_core_second": float(np.median(rate[method])), "recall": hits[method], **made})
    row = {"users": users, "skew": skew, "road": "ours in Spark, probed", "asked": users}
    in_spark(spark, vectors, centroids, events, row)
    table.append({**row, "per_core_second": users / row["seconds_cpu"]})
    mine = rate["ours, probed"]
    ratios = {f"kernel_vs_{name}": (mine / rate[method]).tolist() for name, method in PEERS.items()}
    ratios["recall_minus_ivfflat"] = [hits["ours, probed"] - hits["IVF400,Flat"]]
    ratios["spark_job_cost_over_kernel"] = [row["seconds_cpu"] / float(np.median([one["seconds_cpu"] for one in rows["ours, probed"]]))]
    return table, ratios


PEERS = {"ivfflat": "IVF400,Flat", "big_batch_search": "big_batch_search", "flat": "IndexFlatIP"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[20_000, 200_000], help="the contract's ratios are of the last")
    parser.add_argument("--skews", type=float, nargs="+", default=[1.0, 0.0], help="the contract's ratios are of the last")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    faiss.omp_set_num_threads(1)
    worlds = [(users, skew) for users in options.users for skew in options.skews]
    table = contract.earlier("knn_graph", lambda row: (row["users"], row["skew"]) not in worlds, options.results)
    ratios: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as events:
        settings = contract.event_log(events)
        spark = get_session(SparkConfig(master="local[2]", settings=settings), "benchmark_knn_graph")
        for users, skew in worlds:
            rows, found = one_world(users, skew, options.repetitions, spark, Path(events))
            table += rows
            for key, values in found.items():
                ratios[f"{key}_{users}_{skew:g}"] = ratios[key] = contract.spread(values)
            size = {"dimension": D, "neighbours": K, "k1": CONFIG.k1, "k1_probed": CONFIG.k1_probed, "repetitions": options.repetitions}
            contract.publish("knn_graph", size, sorted(table, key=lambda row: (row["users"], row["skew"])), ratios, options.results)
        spark.stop()


if __name__ == "__main__":
    main()

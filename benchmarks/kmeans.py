"""Clusters of users by cosine: the job's K-means beside Spark MLlib's (cosine distance) and faiss.Kmeans (spherical).

    python -m benchmarks.kmeans

400 clusters of noisy community vectors of Zipf sizes (benchmarks.knn_graph). Ours and MLlib fit and assign inside Spark, from one Parquet
file, with two cores; faiss.Kmeans fits on one core, on the sample that ours fits on. cost: mean of 1 - cosine of a user and the nearest
centroid, of all users. `assigns` rows read all users and find the cluster of each; ours is asserted to be the nearest first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml.clustering import KMeans, KMeansModel
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.arrow import matrix_column
from alure_spark.config import GraphConfig, SparkConfig
from alure_spark.graph.kmeans import assign_clusters, collect_centroids, fit_centroids
from alure_spark.graph.search import nearest
from alure_spark.session import get_session
from benchmarks import contract
from benchmarks.knn_graph import community_vectors, user_ids

CONFIG = GraphConfig()


def cost(vectors: np.ndarray, centroids: np.ndarray) -> float:
    """Mean of 1 - cosine to the nearest centroid."""
    scores, _ = faiss.knn(vectors, np.ascontiguousarray(centroids, np.float32), 1, metric=faiss.METRIC_INNER_PRODUCT)
    return float(1 - scores.mean(dtype=np.float64))


def by_faiss(vectors: np.ndarray, k: int) -> np.ndarray:
    """Centroids by faiss.Kmeans with as many rounds and points."""
    points = CONFIG.kmeans_points_per_cluster
    fitted = faiss.Kmeans(vectors.shape[1], k, niter=CONFIG.kmeans_iterations, spherical=True, seed=7, max_points_per_centroid=points)
    fitted.train(vectors)
    assert fitted.centroids is not None
    return fitted.centroids


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--repetitions", type=int, default=3, help="of the assignment; every method fits once")
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    faiss.omp_set_num_threads(1)
    vectors, _ = community_vectors(options.users, 1.0, 7)
    spark = get_session(SparkConfig(master="local[2]"), "benchmark_kmeans")
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(
            pa.table({"user_id": user_ids(options.users), "embedding": matrix_column(vectors)}),
            f"{folder}/users.parquet",
            row_group_size=20_000,
        )
        named = (F.lit("A").alias("country"), F.timestamp_millis(F.lit(0)).alias("as_of"))
        users = spark.read.parquet(f"{folder}/users.parquet").select("*", *named)
        spread_out = users.select("user_id", array_to_vector(F.col("embedding").cast("array<double>")).alias("features"))
        fits: dict[str, contract.Row] = {method: {"road": f"{method} fits"} for method in ("ours", "MLlib", "faiss.Kmeans")}
        with contract.measured(fits["ours"]):
            fitted = fit_centroids(users, CONFIG).persist()
            centroids = collect_centroids(fitted)["A"]
        with contract.measured(fits["MLlib"]):
            estimator = KMeans(k=len(centroids), maxIter=CONFIG.kmeans_iterations, tol=0, seed=7, distanceMeasure="cosine")
            model: KMeansModel = estimator.fit(spread_out.persist())
        spread_out.unpersist()
        with contract.measured(fits["faiss.Kmeans"]):
            theirs = by_faiss(vectors, len(centroids))
        costs = {"ours": cost(vectors, centroids), "faiss.Kmeans": cost(vectors, theirs)}
        units = np.array(model.clusterCenters())
        costs["MLlib"] = cost(vectors, units / np.linalg.norm(units, axis=1, keepdims=True))
        assigned: dict[str, tuple[DataFrame, str]] = {
            "ours": (assign_clusters(users, fitted), "cluster_id"),
            "MLlib": (model.transform(spread_out), "prediction"),
        }
        assert_nearest(assigned["ours"][0], vectors, centroids)
        # What no method can do without: to read the embeddings; and what the products alone cost.
        assigned["reading alone"] = users.select(F.size("embedding").alias("n")).where("n > 0"), "n"
        rows: dict[str, list[contract.Row]] = {method: [] for method in assigned}
        for _ in range(options.repetitions):
            for method, (frame, column) in assigned.items():
                row: contract.Row = {"road": method if method == "reading alone" else f"{method} assigns"}
                with contract.measured(row):
                    found = frame.agg(F.sum(column), F.count("*").alias("n")).collect()[0]["n"]
                if found != options.users:
                    raise AssertionError(f"{method} assigned {found:,} of {options.users:,} users")
                rows[method].append(row)
    kernel: contract.Row = {"road": "ours, kernel alone"}
    with contract.measured(kernel):
        nearest(vectors, centroids, 1)
    rate = {method: np.array([options.users / row["seconds_cpu"] for row in measured]) for method, measured in rows.items()}
    table = [{**row, "cost": costs[method]} for method, row in fits.items()]
    for method, measured in rows.items():
        table.append({**contract.middle(measured), "per_core_second": float(np.median(rate[method]))})
    table.append({**kernel, "per_core_second": options.users / kernel["seconds_cpu"]})
    ratios = {
        "assign_vs_mllib": contract.spread((rate["ours"] / rate["MLlib"]).tolist()),
        "fit_vs_mllib": contract.spread([fits["MLlib"]["seconds_cpu"] / fits["ours"]["seconds_cpu"]]),
        "cost_vs_faiss": contract.spread([costs["ours"] / costs["faiss.Kmeans"]]),
        "cost_vs_mllib": contract.spread([costs["ours"] / costs["MLlib"]]),
    }
    size = {"users": options.users, "dimension": vectors.shape[1], "k1": len(centroids), "repetitions": options.repetitions}
    contract.publish("kmeans", size, table, ratios, options.results)


def assert_nearest(assigned: DataFrame, vectors: np.ndarray, centroids: np.ndarray) -> None:
    """The clusters of the first thousand users are their nearest centroids."""
    rows = assigned.where(F.col("user_id") < user_ids(len(vectors))[min(1000, len(vectors) - 1)]).orderBy("user_id").collect()
    clusters = np.array([row["cluster_id"] for row in rows])
    best = (vectors[: len(rows)] @ centroids.T).max(axis=1)
    if not len(rows) or np.abs(np.einsum("nd,nd->n", vectors[: len(rows)], centroids[clusters]) - best).max() > 1e-5:
        raise AssertionError("users are in other clusters than the nearest")


if __name__ == "__main__":
    main()

"""Spherical K-means per country (ALURE, section 3): k1 centroids of unit norm, each user with the nearest one by cosine.

The centroids are fitted on a bounded sample of each country (a country is one group of rows in one worker), then all users
are assigned in one pass over the table, with the centroids, which are small, carried along.

    fitted = fit_centroids(embeddings, config)        # small: persist it, several frames are made from it
    users = assign_clusters(embeddings, fitted)       # user_clusters
    centroids = with_sizes(fitted, users)             # cluster_centroids
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from ..arrow import by_value, matrix_column
from ..config import GraphConfig
from ..errors import DataError
from .arrays import column, matrix, one_batch, worker_threads
from .search import cluster_count, nearest

FITTED = "country string, as_of timestamp, cluster_id int, centroid array<float>, rounds int, similarity double, warm boolean, drift double"
CLUSTERED = "user_id string, country string, as_of timestamp, cluster_id int"
SEED_POINTS_PER_CLUSTER = 32  # k-means++ chooses among so many points per cluster: its cost is points * k

AssignTo = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Clustering(NamedTuple):
    """What Lloyd's loop ends with."""

    centroids: np.ndarray  # (k, d) float32, unit norm
    similarity: float  # mean of the points to their nearest centroid, before the last step
    rounds: int
    warm: bool = False  # whether it went on from earlier centroids


def fit_centroids(embeddings: DataFrame, config: GraphConfig, earlier: Mapping[str, np.ndarray] | None = None) -> DataFrame:
    """Unit-norm centroids: country, as_of, cluster_id (0 ..), centroid; iterative inside each worker, lazy outside.

    Grain: country and cluster. k1 = cluster_count(users of the country); fewer where the sample has fewer distinct vectors.
    Fitted on the kmeans_points_per_cluster * k1 users whose hash of the id is smallest. as_of is the latest of the sample.
    earlier: country -> centroids of an earlier day, which the loop goes on from where they fit better than new seeds (see fit_country).
    How the country's fit went, the same in all its rows: rounds, similarity (mean to the nearest centroid), warm (whether it went on
    from the earlier centroids), drift (1 - mean cosine of a centroid to what it was then; null where not warm).
    """
    known = dict(earlier or {})
    limit = config.kmeans_points_per_cluster * config.k1
    users = embeddings.groupBy("country").agg(F.count(F.lit(1)).alias("users"))
    salted = embeddings.withColumn("salt", F.xxhash64(F.lit(config.seed), "user_id")).join(F.broadcast(users), "country")
    # The hash is uniform, so twice the share that is needed bounds what the window below has to sort.
    near = salted.where(F.col("salt") / 2.0**64 + 0.5 <= 2.0 * limit / F.col("users"))
    order = Window.partitionBy("country").orderBy("salt", "user_id")
    sample = near.withColumn("place", F.row_number().over(order)).where(F.col("place") <= limit)

    def fit(table: pa.Table) -> pa.Table:
        worker_threads()
        batch = one_batch(table)
        points = matrix(batch, "embedding")[np.argsort(column(batch, "place"))]
        country = batch.column("country")[0].as_py()
        found = fit_country(points, int(column(batch, "users")[0]), config, known.get(country))
        centroids, k = found.centroids, len(found.centroids)
        drift = 1.0 - float((centroids * known[country]).sum(axis=1).mean()) if found.warm else None
        as_of = pa.array([pc.max(batch.column("as_of"))] * k, batch.column("as_of").type)
        ids = pa.array(np.arange(k, dtype=np.int32))
        vectors = matrix_column(centroids)
        facts = ((found.rounds, pa.int32()), (found.similarity, pa.float64()), (found.warm, pa.bool_()), (drift, pa.float64()))
        columns = [pa.array([country] * k), as_of, ids, vectors, *(pa.array([fact] * k, kind) for fact, kind in facts)]
        return pa.Table.from_arrays(columns, names=_names(FITTED))

    kept = sample.select("user_id", "country", "as_of", "embedding", "place", "users")
    return kept.groupBy("country").applyInArrow(fit, FITTED)


def assign_clusters(embeddings: DataFrame, fitted: DataFrame) -> DataFrame:
    """user_clusters: every user with the nearest centroid of the country (ties: the lower cluster_id).

    Collects the centroids. Cost: k1*d multiply-adds per user.
    """
    centroids = collect_centroids(fitted)

    def assign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        worker_threads()
        for batch in batches:
            for country, users in by_value(batch, "country"):
                if country not in centroids:
                    raise DataError(f"country {country!r} has no centroids: fit them on the same embeddings")
                _, cluster = nearest(matrix(users, "embedding"), centroids[country], 1)
                arrays = [*users.columns[:3], pa.array(cluster[:, 0].astype(np.int32))]
                yield pa.RecordBatch.from_arrays(arrays, names=_names(CLUSTERED))

    return embeddings.select("user_id", "country", "as_of", "embedding").mapInArrow(assign, CLUSTERED)


def with_sizes(fitted: DataFrame, users: DataFrame) -> DataFrame:
    """cluster_centroids: the fitted centroids with `size`, the number of users assigned (0 where nobody came)."""
    sizes = users.groupBy("country", "cluster_id").agg(F.count(F.lit(1)).alias("size"))
    size = F.coalesce("size", F.lit(0).cast("bigint")).alias("size")
    return fitted.join(sizes, ["country", "cluster_id"], "left").select("country", "as_of", "cluster_id", "centroid", size)


def collect_centroids(fitted: DataFrame) -> dict[str, np.ndarray]:
    """Country -> centroids (k1, d) float32 in the order of cluster_id, on the driver."""
    by_country: dict[str, list] = {}
    for row in fitted.select("country", "cluster_id", "centroid").orderBy("country", "cluster_id").collect():
        by_country.setdefault(row["country"], []).append(row["centroid"])
    return {country: np.array(rows, np.float32) for country, rows in by_country.items()}


def collect_sizes(cluster_centroids: DataFrame) -> dict[str, np.ndarray]:
    """Country -> users of each cluster (k1,) int64 in the order of cluster_id, on the driver."""
    by_country: dict[str, list[int]] = {}
    for row in cluster_centroids.select("country", "cluster_id", "size").orderBy("country", "cluster_id").collect():
        by_country.setdefault(row["country"], []).append(row["size"])
    return {country: np.array(sizes, np.int64) for country, sizes in by_country.items()}


def fit_country(points: np.ndarray, users: int, config: GraphConfig, earlier: np.ndarray | None = None) -> Clustering:
    """Clusters of a country of that many users, from its sample (N, d) in a random but fixed order.

    earlier (k, d): centroids to go on from. They are taken when there are as many as asked for, of the same length, and the sample is
    nearer to them than to new seeds: so a model whose space has nothing to do with the earlier one starts anew.
    """
    k = cluster_count(users, config)
    points = points[: config.kmeans_points_per_cluster * k]
    start = seed_centroids(points[: SEED_POINTS_PER_CLUSTER * k], k, config.seed)
    warm = earlier is not None and earlier.shape == start.shape
    if warm:
        assert earlier is not None
        fits, seeded = (float(assign_by_faiss(points, one)[0].mean(dtype=np.float64)) for one in (earlier, start))
        warm = fits > seeded
        start = earlier if warm else start
    return lloyd(assign_by_faiss, points, start, config.kmeans_iterations, config.kmeans_tolerance)._replace(warm=warm)


def assign_by_faiss(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Similarity (N,) float32 to and number (N,) of the nearest centroid; enough inside the loop, where nobody sees a tie."""
    scores, labels = faiss.knn(points, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)
    return scores[:, 0], labels[:, 0]


def seed_centroids(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Greedy k-means++: up to k distinct points; of a few drawn in proportion to their distance from those already chosen,
    the one that leaves the smallest total distance. (With one draw a community is now and then left without a centroid.)
    """
    random = np.random.default_rng(seed)
    draws = 2 + int(np.log(k))
    chosen = [0]
    distance = np.maximum(1 - points @ points[0], 0)
    while len(chosen) < k:
        distance[distance < 1e-6] = 0  # equal up to float32: never draw a point twice
        total = np.cumsum(distance, dtype=np.float64)
        if total[-1] <= 0:
            break  # fewer distinct points than clusters
        drawn = np.searchsorted(total, random.random(draws) * total[-1], side="right")
        left = np.minimum(distance[:, None], np.maximum(1 - points @ points[drawn].T, 0))  # (N, draws)
        best = int(np.argmin(left.sum(axis=0, dtype=np.float64)))
        chosen.append(int(drawn[best]))
        distance = left[:, best].copy()
    return points[chosen]


def lloyd(assign_to: AssignTo, points: np.ndarray, centroids: np.ndarray, iterations: int, tolerance: float = 1e-6) -> Clustering:
    """Lloyd's loop over the points (N, d) from the centroids (k, d).

    1. every point to its nearest centroid   2. every centroid to the mean direction of its points
    3. a centroid without points to one of the points that are farthest from theirs (ties: the first)
    until the mean similarity rises by no more than the tolerance.
    """
    objective, rounds = -np.inf, 0
    while rounds < iterations:
        rounds += 1
        scores, labels = assign_to(points, centroids)
        before, objective = objective, float(scores.mean(dtype=np.float64))
        order = np.argsort(labels, kind="stable")
        present, first = np.unique(labels[order], return_index=True)
        sums = np.add.reduceat(points[order], first, axis=0, dtype=np.float64)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = centroids.copy()
        # Points that cancel each other out have no mean direction: such a centroid stays where it is.
        centroids[present] = np.where(norm > 1e-12, sums / np.maximum(norm, 1e-12), centroids[present])
        empty = np.setdiff1d(np.arange(len(centroids)), present)
        centroids[empty] = points[np.argsort(scores, kind="stable")[: len(empty)]]
        if objective - before <= tolerance and not len(empty):
            break
    return Clustering(centroids, objective, rounds)


def _names(ddl: str) -> list[str]:
    return [field.split()[0] for field in ddl.split(", ")]

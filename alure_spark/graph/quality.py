"""Is the graph right, and what does it look like: recall against exact search, and the figures that go to MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from ..arrow import by_value
from ..config import GraphConfig
from .arrays import FOUND, column, found_column, matrix, worker_threads
from .edges import best_found
from .kmeans import collect_centroids, collect_sizes
from .search import neighbours

TIE = 1e-6  # similarities nearer than this count as equal
PROBED = np.array([1, 2, 3, 5, 10, 20, 50, 100, 200, 400])  # lists, of the curve
MAPPED = 2000  # users on the map


def sampled(embeddings: DataFrame, config: GraphConfig) -> DataFrame:
    """The rows of at most recall_queries users per country, smallest hash of the id first."""
    order = Window.partitionBy("country").orderBy(F.xxhash64(F.lit(config.seed), "user_id"), "user_id")
    return embeddings.withColumn("place", F.row_number().over(order)).where(F.col("place") <= config.recall_queries).drop("place")


def exact_neighbours(sample: DataFrame, embeddings: DataFrame, k2: int) -> DataFrame:
    """The k2 nearest of each user of the sample by exact search: country, user_id, found (best first, never empty).

    The sample is collected, and its vectors go to every partition. Cost: sample * users of the country * d.
    """
    queries: dict[str, tuple[list, list]] = {}
    for row in sample.select("country", "user_id", "embedding").orderBy("country", "user_id").collect():
        ids, vectors = queries.setdefault(row["country"], ([], []))
        ids.append(row["user_id"])
        vectors.append(row["embedding"])
    asked = {country: (np.array(ids, object), np.array(vectors, np.float32)) for country, (ids, vectors) in queries.items()}

    def search(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        worker_threads()
        for batch in batches:
            for country, users in by_value(batch, "country"):
                if country in asked:
                    yield _search_some(country, *asked[country], users, k2)

    columns = embeddings.select("user_id", "country", "as_of", "embedding")
    partial = columns.mapInArrow(search, f"country string, user_id string, as_of timestamp, found {FOUND}")
    return best_found(partial, k2).where(F.size("found") > 0).select("country", "user_id", "found")


def search_recall(edges: DataFrame, sample: DataFrame, embeddings: DataFrame, exact: DataFrame) -> DataFrame:
    """Recall@k2 of the edges against exact search. Grain: country with at least two users. country, queries, recall.

    exact: exact_neighbours of the sample. An edge is a hit when the true similarity of its ends is no lower than that of the
    k2-th exact neighbour, so that ties count whoever they are; an edge to oneself or named twice does not. Recall = hits / edges that
    exact search has.
    """
    worst = (F.lit(0.0) - F.element_at("found", -1)["distance"]).alias("worst")
    limits = exact.select("country", "user_id", F.size("found").alias("expected"), worst)

    # The few edges of the sample, with both ends' embeddings; then every expected edge of exact search is found or not.
    source = sample.select("country", F.col("user_id").alias("src_user_id"), F.col("embedding").alias("src"))
    target = embeddings.select("country", F.col("user_id").alias("dst_user_id"), F.col("embedding").alias("dst"))
    others = edges.where("src_user_id != dst_user_id").select("country", "src_user_id", "dst_user_id")
    named = others.join(F.broadcast(source), ["country", "src_user_id"]).dropDuplicates(["country", "src_user_id", "dst_user_id"])
    products = F.zip_with("src", "dst", lambda a, b: a.cast("double") * b)
    similarity = F.aggregate(products, F.lit(0.0), lambda total, value: total + value).alias("similarity")
    ends = target.join(F.broadcast(named), ["country", "dst_user_id"])
    evaluated = ends.select("country", F.col("src_user_id").alias("user_id"), similarity)
    hit = F.coalesce(F.col("similarity") > F.col("worst") - TIE, F.lit(False)).cast("int")
    per_user = (
        limits.join(evaluated, ["country", "user_id"], "left").groupBy("country", "user_id", "expected").agg(F.sum(hit).alias("hits"))
    )
    recall = (F.sum(F.least("hits", "expected")) / F.sum("expected")).alias("recall")
    return per_user.groupBy("country").agg(F.count(F.lit(1)).alias("queries"), recall)


def _search_some(country: str, ids: np.ndarray, vectors: np.ndarray, users: pa.RecordBatch, k: int) -> pa.RecordBatch:
    """The best of one batch of users for the sampled queries: country, user_id, as_of, found."""
    users = users.take(pa.array(np.argsort(column(users, "user_id"))))
    base_ids = column(users, "user_id")
    pairs = neighbours(vectors, ids, matrix(users, "embedding"), base_ids, k)
    best = found_column(pairs.row, base_ids[pairs.position], pairs.weight, len(ids))
    # as_of is of no use here, but best_found groups by it.
    as_of = pa.nulls(len(ids), users.column("as_of").type)
    names = ["country", "user_id", "as_of", "found"]
    return pa.RecordBatch.from_arrays([pa.array([country] * len(ids)), pa.array(ids), as_of, best], names=names)


class ProbeCurve(NamedTuple):
    """What probing the nearest p lists would cost and find, for some p."""

    probed: np.ndarray  # (n,) lists, ascending
    searched: np.ndarray  # (n,) mean share of the country's users in them
    recall: np.ndarray  # (n,) share of the exact neighbours in them


def probe_curves(exact: DataFrame, sample: DataFrame, clusters: DataFrame, centroids: DataFrame) -> dict[str, ProbeCurve]:
    """Country -> what other values of k1_probed would have found: a neighbour is found where its cluster is among those probed.

    exact: exact_neighbours of the sample; clusters: user_clusters; centroids: cluster_centroids. Collects the sample.
    """
    sizes = collect_sizes(centroids)
    pairs = exact.select("country", F.col("user_id").alias("src"), F.explode("found.dst_user_id").alias("user_id"))
    met = F.collect_list("cluster_id").alias("clusters")
    of_neighbour = pairs.join(clusters, ["country", "user_id"]).groupBy("country", "src").agg(met)
    queries = sample.select("country", F.col("user_id").alias("src"), "embedding")
    asked: dict[str, list] = {}
    for row in queries.join(of_neighbour, ["country", "src"]).orderBy("country", "src").collect():
        asked.setdefault(row["country"], []).append(row)
    vectors, curves = collect_centroids(centroids), {}
    for country, rows in asked.items():
        lists = np.argsort(-(np.array([row["embedding"] for row in rows], np.float32) @ vectors[country].T), axis=1, kind="stable")
        place = np.argsort(lists, axis=1)  # (Q, k1): when each list is probed
        when = np.concatenate([place[query][row["clusters"]] for query, row in enumerate(rows)])
        held = np.cumsum(sizes[country][lists].mean(axis=0)) / sizes[country].sum()
        probed = np.unique(np.minimum(PROBED, lists.shape[1]))
        curves[country] = ProbeCurve(probed, held[probed - 1], np.array([(when < p).mean() for p in probed]))
    return curves


def in_degrees(edges: DataFrame, users: DataFrame) -> DataFrame:
    """degree, users: how many users are so many users' neighbour."""
    incoming = edges.groupBy(F.col("dst_user_id").alias("user_id")).agg(F.count(F.lit(1)).alias("degree"))
    degree = F.coalesce("degree", F.lit(0)).alias("degree")
    return users.select("user_id").join(incoming, "user_id", "left").groupBy(degree).agg(F.count(F.lit(1)).alias("users")).orderBy("degree")


def embedding_map(embeddings: DataFrame, clusters: DataFrame, config: GraphConfig) -> pd.DataFrame:
    """x, y, country, cluster of MAPPED users: their embeddings on the two directions in which they differ most."""
    some = embeddings.orderBy(F.xxhash64(F.lit(config.seed), "user_id"), "user_id").limit(MAPPED)
    rows = pd.DataFrame(some.join(clusters, ["country", "user_id"]).select("user_id", "country", "cluster_id", "embedding").toPandas())
    rows = rows.sort_values("user_id")
    vectors = np.array(rows["embedding"].tolist(), np.float64)
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ directions[:2].T
    x, y = (flat[:, at] if flat.shape[1] > at else np.zeros(len(flat)) for at in (0, 1))
    return pd.DataFrame({"x": x, "y": y, "country": rows["country"].to_numpy(), "cluster": rows["cluster_id"].to_numpy()})


def graph_statistics(edges: DataFrame, clusters: DataFrame) -> DataFrame:
    """One row that tells a person what graph this is; users without an incoming edge count with in-degree 0.

    users, connected_share (of users, those with an edge), edges, mean_weight, in_degree_p50, in_degree_p90, in_degree_max,
    reciprocity (share of edges whose reverse is an edge), clusters, cluster_size_min, cluster_size_median, cluster_size_max (of
    clusters with users).
    """
    counted = F.count(F.lit(1))
    incoming = edges.groupBy(F.col("dst_user_id").alias("user_id")).agg(counted.alias("degree"))
    outgoing = edges.select(F.col("src_user_id").alias("user_id"), F.lit(1).alias("has_edge")).distinct()
    degree = F.coalesce("degree", F.lit(0))
    degrees = clusters.select("user_id").join(incoming, "user_id", "left").join(outgoing, "user_id", "left").agg(
        counted.alias("users"),
        F.avg(F.coalesce("has_edge", F.lit(0))).alias("connected_share"),
        F.percentile(degree, 0.5).alias("in_degree_p50"),
        F.percentile(degree, 0.9).alias("in_degree_p90"),
        F.max(degree).alias("in_degree_max"),
    )  # fmt: skip
    reverse = edges.select(F.col("dst_user_id").alias("src_user_id"), F.col("src_user_id").alias("dst_user_id"), F.lit(1).alias("back"))
    overall = edges.join(reverse, ["src_user_id", "dst_user_id"], "left").agg(
        counted.alias("edges"), F.avg("weight").alias("mean_weight"), F.avg(F.coalesce("back", F.lit(0))).alias("reciprocity")
    )
    sizes = clusters.groupBy("country", "cluster_id").agg(counted.alias("size")).agg(
        counted.alias("clusters"),
        F.min("size").alias("cluster_size_min"),
        F.percentile("size", 0.5).alias("cluster_size_median"),
        F.max("size").alias("cluster_size_max"),
    )  # fmt: skip
    return degrees.crossJoin(overall).crossJoin(sizes)


def sizes_of_graphs(edges: DataFrame) -> DataFrame:
    """Grain: graph. graph, edges, users (with an edge)."""
    return edges.groupBy("graph").agg(F.count(F.lit(1)).alias("edges"), F.count_distinct("src_user_id").alias("users"))


def edge_churn(edges: DataFrame, earlier: DataFrame) -> DataFrame:
    """One row: churn, the share of earlier edges between users who still have edges that are no edges now; earlier_edges, how many."""
    still = edges.select("src_user_id").distinct()
    old = earlier.select("src_user_id", "dst_user_id").join(still, "src_user_id", "left_semi")
    now = edges.select("src_user_id", "dst_user_id", F.lit(1).alias("stays"))
    stays = F.avg(F.coalesce("stays", F.lit(0)))
    joined = old.join(now, ["src_user_id", "dst_user_id"], "left")
    return joined.agg((1.0 - stays).alias("churn"), F.count(F.lit(1)).alias("earlier_edges"))


def clustering_statistics(fitted: DataFrame) -> DataFrame:
    """One row about the clusterings of all countries (kmeans.fit_centroids), each weighing as much as it has clusters.

    kmeans_similarity (mean over the countries of users to their centroids), kmeans_rounds_max, kmeans_warm_share, kmeans_drift (of
    the centroids that went on from earlier ones; null where none did).
    """
    return fitted.agg(
        F.avg("similarity").alias("kmeans_similarity"),
        F.max("rounds").alias("kmeans_rounds_max"),
        F.avg(F.col("warm").cast("int")).alias("kmeans_warm_share"),
        F.avg("drift").alias("kmeans_drift"),
    )

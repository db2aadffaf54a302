"""user_embeddings -> user_clusters, cluster_centroids, user_edges, at one as_of."""

from __future__ import annotations

import time
from dataclasses import replace

from pyspark.sql import functions as F

from alure_spark.errors import LakeError, QualityError
from alure_spark.graph import edges as search
from alure_spark.graph import embeddings, kmeans, quality
from alure_spark.graph.search import choose_road
from alure_spark.lake import JobRun, as_of_scope
from jobs.command import Context, Job, Report


def build(context: Context, run: JobRun) -> Report:
    config, graph = context.config, context.config.graph
    scope = as_of_scope(config.time.as_of_ms)
    found = embeddings.current_embeddings(run.read("user_embeddings"), config.time.as_of_ms)
    given = found.select("user_id", "country", "as_of", "model_id", "embedding")
    if given.isEmpty():
        raise LakeError(f"table 'user_embeddings' has no rows at or before {config.time.as_of}: run jobs/embed_users.py for it first")
    good, refused = embeddings.usable_embeddings(given)
    good = good.persist()
    run.write("quarantine", refused.withColumn("run_id", F.lit(run.run_id)), scope="source = 'user_embeddings'")
    fitted = kmeans.fit_centroids(good, graph).persist()
    users = kmeans.assign_clusters(good, fitted).persist()
    centroids = kmeans.with_sizes(fitted, users).persist()
    run.write("user_clusters", users.drop("embedding"), scope)
    run.write("cluster_centroids", centroids, scope)
    edges = search.similarity_edges(users, centroids, graph)
    run.write("user_edges", edges, f"{scope} AND graph = 'alure'")
    written = context.lake.read("user_edges", run.outputs["user_edges"]).where(f"{scope} AND graph = 'alure'")

    statistics = quality.graph_statistics(written, users).first()
    assert statistics is not None
    metrics: dict[str, float | None] = {key: None if value is None else float(value) for key, value in statistics.asDict().items()}
    texts = {}
    if graph.recall_queries:
        recall = quality.search_recall(written, good, graph).orderBy(F.desc("queries"), "country").collect()
        worst = min((row["recall"] for row in recall), default=None)
        metrics |= {f"recall.{row['country']}": row["recall"] for row in recall} | {"recall_worst_country": worst}
        if worst is not None and worst < graph.recall_floor:
            raise QualityError(f"recall against exact search is {worst:.3f} in a country, below graph.recall_floor={graph.recall_floor}")
    sizes = {row["country"]: row["n"] for row in users.groupBy("country").agg(F.count("*").alias("n")).collect()}
    lines = [f"{country}: {n:,} users -> {choose_road(n, graph)} search" for country, n in sorted(sizes.items(), key=lambda item: -item[1])]
    if graph.compare_roads:
        lines += _compare(users, centroids, context)
    texts["build_graph/roads.txt"] = "\n".join(lines)
    for frame in (good, fitted, users, centroids):
        frame.unpersist()
    return Report(metrics, texts=texts)


def _compare(users, centroids, context: Context) -> list[str]:  # type: ignore[no-untyped-def]
    """Both roads on the same users: seconds, and the share of exact edges that the probed road finds."""
    found, lines = {}, []
    for road in ("exact", "probed"):
        started = time.monotonic()
        found[road] = search.similarity_edges(users, centroids, replace(context.config.graph, search=road)).persist()
        count = found[road].count()
        lines.append(f"road {road}: {count:,} edges in {time.monotonic() - started:.1f} s")
    same = found["exact"].join(found["probed"], ["src_user_id", "dst_user_id"]).count()
    lines.append(f"share of exact edges on the probed road: {same / max(1, found['exact'].count()):.4f}")
    for frame in found.values():
        frame.unpersist()
    return lines


JOB = Job(
    "build_graph",
    "clusters per country and directed edges to the nearest users",
    ("user_embeddings",),
    ("user_clusters", "cluster_centroids", "user_edges", "quarantine"),
    lambda config: as_of_scope(config.time.as_of_ms),
    build,
)

if __name__ == "__main__":
    JOB.main()

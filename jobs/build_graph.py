"""user_embeddings, follows -> user_clusters, cluster_centroids, user_edges of every graph and their blend, at one as_of."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark import __version__
from alure_spark.config import Config, GraphConfig
from alure_spark.errors import LakeError, QualityError
from alure_spark.graph import blend, embeddings, follows, kmeans, lift, quality
from alure_spark.graph import edges as search
from alure_spark.graph.search import choose_road
from alure_spark.lake import JobRun, as_of_scope, resumable_folder, scratch_folder, timestamp, workspace
from alure_spark.plots import curves, histogram, scatter
from alure_spark.privacy import identity
from alure_spark.retrieval.candidates import engaged_ads
from alure_spark.running import Context, Job, Report

COUNTRIES_SHOWN = 5  # the largest ones, in the recall curve


def build(context: Context, run: JobRun) -> Report:
    config, graph = context.config, context.config.graph
    scope = as_of_scope(config.time.as_of_ms)
    found = embeddings.current_embeddings(run.read("user_embeddings"), config.time.as_of_ms)
    given = found.select("user_id", "country", "as_of", "model_id", "embedding")
    if given.isEmpty():
        raise LakeError(f"table 'user_embeddings' has no rows at or before {config.time.as_of}: run jobs/embed_users.py for it first")
    good, refused = embeddings.usable_embeddings(given)
    good = _without(good, "user_id", config).persist()
    run.write("quarantine", refused.withColumn("run_id", F.lit(run.run_id)), scope="source = 'user_embeddings'")
    earlier = _before(context, run, "cluster_centroids") if graph.kmeans_warm_start else None
    fitted = kmeans.fit_centroids(good, graph, None if earlier is None else kmeans.collect_centroids(earlier)).persist()
    users = kmeans.assign_clusters(good, fitted).persist()
    centroids = kmeans.with_sizes(fitted, users).persist()
    run.write("user_clusters", users, scope)
    run.write("cluster_centroids", centroids, scope)

    # What was computed so far outlives a killed run of the same inputs.
    content = (__version__, config.digest(), config.time.as_of, sorted(run.inputs.items()))
    with resumable_folder(workspace(config.lake), "graph", content) as folder:
        report = _edges(context, run, good, users, centroids, folder)
    report.metrics.update(_figures(quality.clustering_statistics(fitted)))
    for frame in (good, fitted, users, centroids):
        frame.unpersist()
    return report


def _edges(context: Context, run: JobRun, good: DataFrame, users: DataFrame, centroids: DataFrame, folder: str) -> Report:
    """Writes user_edges; what it reports of them. `folder` holds the results of finished work units."""
    config, graph = context.config, context.config.graph
    scope = as_of_scope(config.time.as_of_ms)
    nearest = search.similarity_edges(good, centroids, graph, folder).persist() if "alure" in graph.graphs else None
    strengths = _strengths(run, users, config)
    made = _graphs(nearest, strengths, config, folder)
    before = _before(context, run, "user_edges")
    counted = _hits(context, run, users, before)
    weights = lift.measured_blend(counted, graph)
    run.write("user_edges", with_blend(made, replace(graph, blend_by_country={**graph.blend_by_country, **weights})), scope)
    written = context.lake.read("user_edges", run.outputs["user_edges"]).where(scope)

    retrieved = written.where(F.col("graph") == graph.retrieved)
    metrics = _figures(quality.graph_statistics(retrieved, users))
    metrics |= {f"lift.{name}": row.hits / row.expected for name, row in lift.overall(counted).items() if row.expected}
    if before is not None:
        metrics |= _figures(quality.edge_churn(retrieved, before.where(F.col("graph") == graph.retrieved)))
    for row in quality.sizes_of_graphs(written).collect() if len(made) > 1 else ():
        metrics |= {f"edges.{row['graph']}": row["edges"], f"users.{row['graph']}": row["users"]}
    figures = _figures_of(retrieved, good, users, centroids, graph)
    if graph.recall_queries and nearest is not None:
        sample = quality.sampled(good, graph).persist()
        exact = quality.exact_neighbours(sample, good, graph.k2).persist()
        recall = quality.search_recall(nearest, sample, good, exact).orderBy(F.desc("queries"), "country").collect()
        probes = quality.probe_curves(exact, sample, users, centroids)
        exact.unpersist()
        sample.unpersist()
        shown = {row["country"]: probes[row["country"]] for row in recall[:COUNTRIES_SHOWN]}
        curve = {f"{country}: {', '.join(map(str, one.probed))} lists": (one.searched, one.recall) for country, one in shown.items()}
        figures["build_graph/recall_by_cost.png"] = curves(curve, "share of the country's users searched", f"recall@{graph.k2}")
        worst = min((row["recall"] for row in recall), default=None)
        metrics |= {f"recall.{row['country']}": row["recall"] for row in recall} | {"recall_worst_country": worst}
        if worst is not None and worst < graph.recall_floor:
            raise QualityError(f"recall against exact search is {worst:.3f} in a country, below graph.recall_floor={graph.recall_floor}")
    sizes = {row["country"]: row["n"] for row in users.groupBy("country").agg(F.count("*").alias("n")).collect()}
    lines = [f"{country}: {n:,} users -> {choose_road(n, graph)} search" for country, n in sorted(sizes.items(), key=lambda item: -item[1])]
    lines += [f"{country}: the blend counts {_said(counts)}" for country, counts in weights.items()]
    if graph.compare_roads:
        lines += _compare(good, centroids, context)
    for frame in (*made, *(frame for frame in (nearest, strengths) if frame is not None)):
        frame.unpersist()
    return Report(metrics, figures, {"build_graph/roads.txt": "\n".join(lines)})


def _figures_of(edges: DataFrame, embeddings: DataFrame, users: DataFrame, centroids: DataFrame, graph: GraphConfig) -> dict[str, Figure]:
    """What a person looks at: the map of users, how large clusters are, how often somebody is a neighbour."""
    mapped = quality.embedding_map(embeddings, users, graph)
    colourings = {name: mapped[name].to_numpy() for name in ("country", "cluster")}
    sizes = pd.DataFrame(centroids.groupBy("size").count().orderBy("size").toPandas())
    degrees = pd.DataFrame(quality.in_degrees(edges, users).toPandas())
    counted = {
        "cluster_sizes": (sizes["size"], sizes["count"], "users in a cluster", "clusters"),
        "in_degree": (degrees["degree"], degrees["users"], "users whose neighbour one is", "users"),
    }
    figures = {
        f"build_graph/{name}.png": histogram(values.to_numpy(), counts.to_numpy(), x, y) for name, (values, counts, x, y) in counted.items()
    }
    return figures | {"build_graph/map.png": scatter(mapped["x"].to_numpy(), mapped["y"].to_numpy(), colourings)}


def _strengths(run: JobRun, users: DataFrame, config: Config) -> DataFrame | None:
    """The follows that count, persisted; None where no graph of the conf asks for them."""
    if not set(config.graph.graphs) & {"bff", "ppr"}:
        return None
    links = run.read("follows")
    for end in ("src_user_id", "dst_user_id"):
        links = _without(links, end, config)
    return follows.follow_strengths(links, users.select("user_id", "country"), config.graph.follow, config.time.as_of_ms).persist()


def with_blend(made: Sequence[DataFrame], graph: GraphConfig) -> DataFrame:
    """The edges of all graphs and, where there are several, of their blend. Persists the frames, which the blend reads too.

    Not their union: Spark makes one flat union of a union of unions, in which it does not find the persisted one again.
    """
    united = functools.reduce(DataFrame.unionByName, [frame.persist() for frame in made])
    return united.unionByName(blend.blended_edges(united, graph)) if len(made) > 1 else united


def _graphs(nearest: DataFrame | None, strengths: DataFrame | None, config: Config, folder: str) -> list[DataFrame]:
    """The edges of each graph that the conf names, before they are blended."""
    graph, as_of = config.graph, config.time.as_of_ms
    made = [] if nearest is None else [search.pruned_edges(nearest, graph)]
    if strengths is not None and "bff" in graph.graphs:
        made.append(follows.followee_edges(strengths, graph, as_of))
    if strengths is not None and "ppr" in graph.graphs:
        made.append(follows.pagerank_edges(strengths, graph, as_of, folder))
    return made


def _hits(context: Context, run: JobRun, users: DataFrame, before: DataFrame | None) -> list[lift.Hits]:
    """How well the edges of the last as_of before foretold what users engaged with since; nothing where it does not matter."""
    config, graph = context.config, context.config.graph
    if before is None or not graph.blend_by_lift or len(graph.graphs) < 2 or "events" not in context.lake.published_versions():
        return []
    (since,) = before.agg(F.max(F.unix_millis("as_of"))).collect()[0]
    edges = before.where(F.col("graph").isin(list(graph.graphs)))
    engaged = engaged_ads(run.read("events"), list(config.retrieval.event_weights))
    return lift.count_hits(edges, engaged, users.select("user_id", "country"), since, config.time.as_of_ms)


def _said(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{graph} {count:.2f}" for graph, count in counts.items())


def _without(frame: DataFrame, column: str, config: Config) -> DataFrame:
    """The rows whose user is not one of graph.excluded_users, given as the log writes them or as the lake does.

    Raises ConfigError where the lake's ids are hashed, and ids are given as the log writes them without the key.
    """
    ids = set(config.graph.excluded_users)
    if not ids:
        return frame
    if config.ingest.hash_user_ids and (raw := {one for one in ids if not re.fullmatch("[0-9a-f]{64}", one)}):
        key = identity.user_key(os.environ)
        ids |= {identity.hashed(one, key) for one in raw}
    excluded = frame.sparkSession.createDataFrame([(user,) for user in sorted(ids)], f"{column} string")
    return frame.join(F.broadcast(excluded), column, "left_anti")


def _before(context: Context, run: JobRun, name: str) -> DataFrame | None:
    """The table's rows of the last as_of before this one; None where there is none."""
    if name not in context.lake.published_versions():
        return None
    rows = run.read(name).where(F.col("as_of") < timestamp(context.config.time.as_of_ms))
    last = rows.agg(F.max(F.unix_millis("as_of"))).collect()[0][0]
    return None if last is None else rows.where(as_of_scope(last))


def _figures(one_row: DataFrame) -> dict[str, float | None]:
    row = one_row.first()
    assert row is not None  # an aggregate over everything has one
    return {key: None if value is None else float(value) for key, value in row.asDict().items()}


def _compare(embeddings: DataFrame, centroids: DataFrame, context: Context) -> list[str]:
    """Both roads on the same users: seconds, and the share of exact edges that the probed road finds."""
    found, lines = {}, []
    with ExitStack() as folders:
        for road in ("exact", "probed"):
            folder = folders.enter_context(scratch_folder(workspace(context.config.lake), f"road-{road}"))
            started = time.monotonic()
            found[road] = search.similarity_edges(embeddings, centroids, replace(context.config.graph, search=road), folder).persist()
            count = found[road].count()
            lines.append(f"road {road}: {count:,} edges in {time.monotonic() - started:.1f} s")
        same = found["exact"].join(found["probed"], ["src_user_id", "dst_user_id"]).count()
        lines.append(f"share of exact edges on the probed road: {same / max(1, found['exact'].count()):.4f}")
        for frame in found.values():
            frame.unpersist()
    return lines


JOB = Job(
    "build_graph",
    "clusters per country and directed edges to the nearest users, by embeddings and by follows",
    ("user_embeddings", "follows", "events"),
    ("user_clusters", "cluster_centroids", "user_edges", "quarantine"),
    lambda config: as_of_scope(config.time.as_of_ms),
    build,
)

if __name__ == "__main__":
    JOB.main()

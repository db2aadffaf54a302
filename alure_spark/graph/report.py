"""What a person looks at after a graph was built: who is near whom, how well the search found it, and what changed since the last day."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..config import Config, GraphConfig
from ..errors import QualityError
from ..lake import JobRun, as_of_scope, scratch_folder, workspace
from ..plots import curves, histogram, scatter
from . import edges as search
from . import lift, quality
from .search import choose_method
from .user_tables import Clusters, Edges

COUNTRIES_SHOWN = 5  # the largest ones, in the recall curve
Metrics = dict[str, float | None]


def graph_report(run: JobRun, config: Config, clusters: Clusters, edges: Edges) -> tuple[Metrics, dict[str, Figure], str]:
    """(metrics, figures by file name, what was searched and counted). The run has written user_edges.

    Raises QualityError where the recall of a country is below graph.recall_floor.
    """
    graph = config.graph
    written = run.written("user_edges").where(as_of_scope(config.time.as_of_ms))
    retrieved = written.where(F.col("graph") == graph.retrieved)
    metrics = _as_metrics(quality.graph_statistics(retrieved, clusters.users))
    metrics |= {f"lift.{name}": row.hits / row.expected for name, row in lift.overall(edges.counted).items() if row.expected}
    if edges.before is not None:
        metrics |= _as_metrics(quality.edge_churn(retrieved, edges.before.where(F.col("graph") == graph.retrieved)))
    for row in quality.sizes_of_graphs(written).collect() if len(edges.made) > 1 else ():
        metrics |= {f"edges.{row['graph']}": row["edges"], f"users.{row['graph']}": row["users"]}
    figures = _figures(retrieved, clusters, graph)
    if graph.recall_queries and edges.nearest is not None:
        recalls, figure = _recall(edges.nearest, clusters, graph)
        metrics |= recalls
        figures["build_graph/recall_by_cost.png"] = figure
    sizes = {row["country"]: row["n"] for row in clusters.users.groupBy("country").agg(F.count("*").alias("n")).collect()}
    lines = [
        f"{country}: {n:,} users -> {choose_method(n, graph)} search" for country, n in sorted(sizes.items(), key=lambda item: -item[1])
    ]
    lines += [f"{country}: the blend counts {_said(counts)}" for country, counts in edges.weights.items()]
    if graph.compare_roads:
        lines += _compare(clusters, config)
    return metrics, figures, "\n".join(lines)


def cluster_metrics(clusters: Clusters) -> Metrics:
    """How K-means ended."""
    return _as_metrics(quality.clustering_statistics(clusters.fitted))


def _recall(nearest: DataFrame, clusters: Clusters, graph: GraphConfig) -> tuple[Metrics, Figure]:
    """Recall of the search against an exact one on a sample of users, per country, and what it would be with other numbers of lists."""
    sample = quality.sampled(clusters.good, graph).persist()
    exact = quality.exact_neighbours(sample, clusters.good, graph.k2).persist()
    recall = quality.search_recall(nearest, sample, clusters.good, exact).orderBy(F.desc("queries"), "country").collect()
    probes = quality.probe_curves(exact, sample, clusters.users, clusters.centroids)
    exact.unpersist()
    sample.unpersist()
    shown = {row["country"]: probes[row["country"]] for row in recall[:COUNTRIES_SHOWN]}
    curve = {f"{country}: {', '.join(map(str, one.probed))} lists": (one.searched, one.recall) for country, one in shown.items()}
    figure = curves(curve, "share of the country's users searched", f"recall@{graph.k2}")
    worst = min((row["recall"] for row in recall), default=None)
    if worst is not None and worst < graph.recall_floor:
        raise QualityError(f"recall against exact search is {worst:.3f} in a country, below graph.recall_floor={graph.recall_floor}")
    return {f"recall.{row['country']}": row["recall"] for row in recall} | {"recall_worst_country": worst}, figure


def _figures(edges: DataFrame, clusters: Clusters, graph: GraphConfig) -> dict[str, Figure]:
    """What a person looks at: the map of users, how large clusters are, how often somebody is a neighbour."""
    mapped = quality.embedding_map(clusters.good, clusters.users, graph)
    colourings = {name: mapped[name].to_numpy() for name in ("country", "cluster")}
    sizes = pd.DataFrame(clusters.centroids.groupBy("size").count().orderBy("size").toPandas())
    degrees = pd.DataFrame(quality.in_degrees(edges, clusters.users).toPandas())
    counted = {
        "cluster_sizes": (sizes["size"], sizes["count"], "users in a cluster", "clusters"),
        "in_degree": (degrees["degree"], degrees["users"], "users whose neighbour one is", "users"),
    }
    figures = {
        f"build_graph/{name}.png": histogram(values.to_numpy(), counts.to_numpy(), x, y) for name, (values, counts, x, y) in counted.items()
    }
    return figures | {"build_graph/map.png": scatter(mapped["x"].to_numpy(), mapped["y"].to_numpy(), colourings)}


def _said(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{graph} {count:.2f}" for graph, count in counts.items())


def _as_metrics(one_row: DataFrame) -> Metrics:
    row = one_row.first()
    assert row is not None  # an aggregate over everything has one
    return {key: None if value is None else float(value) for key, value in row.asDict().items()}


def _compare(clusters: Clusters, config: Config) -> list[str]:
    """Both methods on the same users: seconds, and the share of exact edges that the probed method finds."""
    found, lines = {}, []
    with ExitStack() as folders:
        for method in ("exact", "probed"):
            folder = folders.enter_context(scratch_folder(workspace(config.lake), f"search-{method}"))
            started = time.monotonic()
            graph = replace(config.graph, search=method)
            found[method] = search.similarity_edges(clusters.good, clusters.centroids, graph, folder).persist()
            count = found[method].count()
            lines.append(f"{method} search: {count:,} edges in {time.monotonic() - started:.1f} s")
        same = found["exact"].join(found["probed"], ["src_user_id", "dst_user_id"]).count()
        lines.append(f"share of the exact edges that probed search finds: {same / max(1, found['exact'].count()):.4f}")
        for frame in found.values():
            frame.unpersist()
    return lines

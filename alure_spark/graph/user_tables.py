"""Writes `user_clusters`, `cluster_centroids` and `user_edges` of one as_of: the graphs that the conf names, and their blend.

Enters: `user_embeddings`, `follows`, the edges of the as_of before, a run of the lake. Leaves: the tables, and persisted frames for whoever
reports on them (report.py). Refused embeddings go to `quarantine`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..config import Config
from ..errors import LakeError
from ..lake import JobRun, as_of_scope, timestamp
from ..privacy import identity
from . import edges as search
from . import embeddings, follows, kmeans, lift
from .blend import with_blend


@dataclass(frozen=True)
class Clusters:
    """The users of a graph; all frames persisted."""

    good: DataFrame  # user_id, country, as_of, model_id, embedding: those that may enter the graph
    fitted: DataFrame  # kmeans.fit_centroids
    users: DataFrame  # rows of user_clusters
    centroids: DataFrame  # rows of cluster_centroids

    def unpersist(self) -> None:
        for frame in (self.good, self.fitted, self.users, self.centroids):
            frame.unpersist()


@dataclass(frozen=True)
class Edges:
    """What `user_edges` was made from; all frames but `before` persisted."""

    nearest: DataFrame | None  # edges.similarity_edges, where the conf asks for the graph alure
    strengths: DataFrame | None  # the follows that count, where a graph asks for them
    made: Sequence[DataFrame]  # the edges of each graph, not blended
    before: DataFrame | None  # user_edges of the last as_of before; None where there is none
    counted: Sequence[lift.Hits]  # how well these foretold what users engaged with since
    weights: Mapping[str, Mapping[str, float]]  # country -> graph -> what it counts in the blend, where that was measured

    def unpersist(self) -> None:
        for frame in (*self.made, *(frame for frame in (self.nearest, self.strengths) if frame is not None)):
            frame.unpersist()


def write_clusters(run: JobRun, config: Config) -> Clusters:
    """Raises LakeError where there is no embedding at or before as_of, ConfigError as `identity.ids_in_lake` does."""
    graph = config.graph
    scope = as_of_scope(config.time.as_of_ms)
    found = embeddings.current_embeddings(run.read("user_embeddings"), config.time.as_of_ms)
    given = found.select("user_id", "country", "as_of", "model_id", "embedding")
    if given.isEmpty():
        raise LakeError(f"table 'user_embeddings' has no rows at or before {config.time.as_of}: run jobs/embed_users.py for it first")
    good, refused = embeddings.usable_embeddings(given)
    good = without_users(good, "user_id", excluded_users(config)).persist()
    run.write("quarantine", refused.withColumn("run_id", F.lit(run.run_id)), scope="source = 'user_embeddings'")
    earlier = _before(run, config, "cluster_centroids") if graph.kmeans_warm_start else None
    fitted = kmeans.fit_centroids(good, graph, None if earlier is None else kmeans.collect_centroids(earlier)).persist()
    users = kmeans.assign_clusters(good, fitted).persist()
    centroids = kmeans.with_sizes(fitted, users).persist()
    run.write("user_clusters", users, scope)
    run.write("cluster_centroids", centroids, scope)
    return Clusters(good, fitted, users, centroids)


def write_edges(run: JobRun, config: Config, clusters: Clusters, folder: str, engaged: Callable[[], DataFrame]) -> Edges:
    """folder: the results of finished work units; engaged: what users engaged with (user_id, ad_id, known_at), where that is asked for."""
    graph = config.graph
    nearest = search.similarity_edges(clusters.good, clusters.centroids, graph, folder).persist() if "alure" in graph.graphs else None
    strengths = _strengths(run, clusters.users, config)
    made = _graphs(nearest, strengths, config, folder)
    before = _before(run, config, "user_edges")
    counted = _hits(run, config, clusters.users, before, engaged)
    weights = lift.measured_blend(counted, graph)
    blended = with_blend(made, replace(graph, blend_by_country={**graph.blend_by_country, **weights}))
    run.write("user_edges", blended, as_of_scope(config.time.as_of_ms))
    return Edges(nearest, strengths, made, before, counted, weights)


def _strengths(run: JobRun, users: DataFrame, config: Config) -> DataFrame | None:
    """The follows that count, persisted; None where no graph of the conf asks for them."""
    if not set(config.graph.graphs) & {"bff", "ppr"}:
        return None
    links = run.read("follows")
    for end in ("src_user_id", "dst_user_id"):
        links = without_users(links, end, excluded_users(config))
    return follows.follow_strengths(links, users.select("user_id", "country"), config.graph.follow, config.time.as_of_ms).persist()


def _graphs(nearest: DataFrame | None, strengths: DataFrame | None, config: Config, folder: str) -> list[DataFrame]:
    """The edges of each graph that the conf names, before they are blended."""
    graph, as_of = config.graph, config.time.as_of_ms
    made = [] if nearest is None else [search.pruned_edges(nearest, graph)]
    if strengths is not None and "bff" in graph.graphs:
        made.append(follows.followee_edges(strengths, graph, as_of))
    if strengths is not None and "ppr" in graph.graphs:
        made.append(follows.pagerank_edges(strengths, graph, as_of, folder))
    return made


def _hits(run: JobRun, config: Config, users: DataFrame, before: DataFrame | None, engaged: Callable[[], DataFrame]) -> list[lift.Hits]:
    """How well the edges of the last as_of before foretold what users engaged with since; nothing where it does not matter."""
    graph = config.graph
    if before is None or not graph.blend_by_lift or len(graph.graphs) < 2 or "events" not in run.lake.published_versions():
        return []
    (since,) = before.agg(F.max(F.unix_millis("as_of"))).collect()[0]
    edges = before.where(F.col("graph").isin(list(graph.graphs)))
    return lift.count_hits(edges, engaged(), users.select("user_id", "country"), since, config.time.as_of_ms)


def excluded_users(config: Config) -> set[str]:
    """graph.excluded_users, given as the log writes them or as the lake does, as the lake writes them."""
    return identity.ids_in_lake(config.graph.excluded_users, config.ingest.hash_user_ids)


def without_users(frame: DataFrame, column: str, ids: Collection[str]) -> DataFrame:
    """The rows whose user is not one of the ids."""
    if not ids:
        return frame
    excluded = frame.sparkSession.createDataFrame([(user,) for user in sorted(ids)], f"{column} string")
    return frame.join(F.broadcast(excluded), column, "left_anti")


def _before(run: JobRun, config: Config, name: str) -> DataFrame | None:
    """The table's rows of the last as_of before this one; None where there is none."""
    if name not in run.lake.published_versions():
        return None
    rows = run.read(name).where(F.col("as_of") < timestamp(config.time.as_of_ms))
    last = rows.agg(F.max(F.unix_millis("as_of"))).collect()[0][0]
    return None if last is None else rows.where(as_of_scope(last))

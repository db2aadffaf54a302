"""user_embeddings, follows -> user_clusters, cluster_centroids, user_edges of every graph and their blend, at one as_of."""

from __future__ import annotations

from pyspark.sql import DataFrame

from alure_spark import __version__
from alure_spark.graph.report import cluster_metrics, graph_report
from alure_spark.graph.user_tables import write_clusters, write_edges
from alure_spark.lake import JobRun, as_of_scope, resumable_folder, workspace
from alure_spark.retrieval.candidates import engaged_ads
from alure_spark.running import Context, Job, Report


def build(context: Context, run: JobRun) -> Report:
    config = context.config

    def engaged() -> DataFrame:
        return engaged_ads(run.read("events"), list(config.retrieval.event_weights))

    clusters = write_clusters(run, config)
    # What was computed so far outlives a killed run of the same inputs.
    content = (__version__, config.digest(), config.time.as_of, sorted(run.inputs.items()))
    with resumable_folder(workspace(config.lake), "graph", content) as folder:
        edges = write_edges(run, config, clusters, folder, engaged)
        metrics, figures, methods = graph_report(run, config, clusters, edges)
        edges.unpersist()
    metrics |= cluster_metrics(clusters)
    clusters.unpersist()
    return Report(metrics, figures, {"build_graph/search_methods.txt": methods})


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

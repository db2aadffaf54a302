"""What ten days do to a user graph: does its recall drift, how many edges change, what do yesterday's centroids save?

    python -m benchmarks.daily_graph

Quality, not speed. The synthetic world, a user model that goes on learning every day (training.warm_start), embeddings of users with new
events, and a probed graph built on every day, as the jobs do it; figures as the job logs them to MLflow. rounds_cold: of the same
day's K-means from new seeds; similarity_cold: how near its users then are to their centroids.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence

from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS, format_time, parse_time
from alure_spark.config import load
from alure_spark.graph import kmeans, quality
from alure_spark.graph.embeddings import current_embeddings, usable_embeddings
from alure_spark.running import Context, open_context, run_jobs
from benchmarks import contract
from jobs import build_graph, pipeline

START = "2025-01-20T00:00:00Z"
WORLD = [
    "source.options.users=2000", "source.options.days=28", "training.epochs=3", "inference.precision=float32",
    "graph.k2=15", "graph.search=probed", "graph.users_per_cluster=20", "graph.k1_probed=20", "graph.recall_queries=500",
]  # fmt: skip
DAILY = ["training.warm_start=true", "labels.days=7", "labels.validation_days=1"]
LOGGED = (
    "recall_worst_country", "churn", "earlier_edges", "kmeans_rounds_max", "kmeans_similarity", "kmeans_warm_share", "kmeans_drift",
    "lift.alure", "lift.bff", "lift.ppr", "in_degree_max", "seconds",
)  # fmt: skip


def opened(folder: str, as_of_ms: int, settings: Sequence[str]) -> Context:
    return open_context(load("conf/test.yml", [*WORLD, *settings, *contract.places(folder), f"time.as_of={format_time(as_of_ms)}"]))


def from_new_seeds(context: Context) -> contract.Row:
    """K-means of the day without yesterday's centroids: its rounds and similarity."""
    as_of = context.config.time.as_of_ms
    good, _ = usable_embeddings(current_embeddings(context.lake.read("user_embeddings"), as_of))
    found = quality.clustering_statistics(kmeans.fit_centroids(good, context.config.graph)).first()
    assert found is not None
    return {"rounds_cold": found["kmeans_rounds_max"], "similarity_cold": found["kmeans_similarity"]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=10)
    options = parser.parse_args(arguments)
    rows: list[contract.Row] = []
    with tempfile.TemporaryDirectory(prefix="daily_graph_") as folder:
        start = parse_time(START)
        context = opened(folder, start, [])
        run_jobs(context, [*pipeline.stages("ingest_events", "embed_users"), build_graph.JOB], "benchmark_daily_graph")
        for day in range(1, options.days + 1):
            context = opened(folder, start + day * DAY_MS, DAILY)
            run_jobs(context, pipeline.stages("build_sequences", "build_graph"), "benchmark_daily_graph")
            logged = {name: context.tracker.metrics.get(f"build_graph.{name}") for name in LOGGED}
            fresh = context.lake.read("user_embeddings").where(F.unix_millis("as_of") == context.config.time.as_of_ms).count()
            rows.append({"day": day, "embedded": fresh, **logged, **from_new_seeds(context)})
            contract.publish("daily_graph", {"world": WORLD, "daily": DAILY, "days": day}, rows, {})


if __name__ == "__main__":
    main()

"""user_edges, events, ads -> ad_candidates: ads through similar users, at one as_of.

--since TIME takes the graph of an earlier as_of and everything that its users did until time.as_of: so what happened in the last hours
counts before there is a new graph (ALURE's user real-time activities).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd
from pyspark.sql import functions as F

from alure_spark.clock import format_time, parse_time
from alure_spark.errors import LakeError
from alure_spark.lake import JobRun, as_of_scope, timestamp
from alure_spark.plots import histogram
from alure_spark.retrieval.candidates import ad_candidates, serving_candidates
from alure_spark.running import Context, Job, Report, guarded, job_parser, run_job


def retrieve(context: Context, run: JobRun, since_ms: int | None = None) -> Report:
    config = context.config
    scope = as_of_scope(config.time.as_of_ms)
    edges = (
        run.read("user_edges")
        .where(as_of_scope(config.time.as_of_ms if since_ms is None else since_ms))
        .where(F.col("graph") == config.graph.retrieved)
    )
    if edges.isEmpty():  # else everybody's candidates would go
        moment, remedy = format_time(config.time.as_of_ms), "run jobs/build_graph.py for this as_of first"
        if since_ms is not None:
            moment, remedy = f"--since {format_time(since_ms)}", "give --since an as_of that has one"
        raise LakeError(f"table 'user_edges' has no graph '{config.graph.retrieved}' of {moment}: {remedy}")
    candidates = ad_candidates(edges, run.read("events"), run.read("ads"), config.retrieval, config.time.as_of_ms)
    users = run.write("ad_candidates", candidates, scope)
    written = context.lake.read("ad_candidates", run.outputs["ad_candidates"]).where(scope)
    later = context.lake.read("ad_candidates", run.outputs["ad_candidates"]).where(F.col("as_of") > timestamp(config.time.as_of_ms))
    if config.retrieval.hand_off_hours and later.isEmpty():  # an old day that is run again is served no more
        run.write("serving_candidates", serving_candidates(written, config.retrieval.hand_off_hours))
    counts = written.select(F.size("ad_id").alias("ads"))
    listed = pd.DataFrame(counts.groupBy("ads").count().orderBy("ads").toPandas())
    total = int((listed["ads"] * listed["count"]).sum())
    with_ads = int(listed.loc[listed["ads"] > 0, "count"].sum())
    metrics: dict[str, float | None] = {
        "users": users,
        "users_with_candidates": with_ads,
        "candidates": total,
        "candidates_per_user": total / users if total else None,
    }
    figure = histogram(listed["ads"].to_numpy(), listed["count"].to_numpy(), "ads retrieved per user", "users")
    return Report(metrics, {"retrieve_ads/ads_per_user.png": figure} if users else {})


def job(since_ms: int | None = None) -> Job:
    """The job; with since_ms through the graph of that as_of."""
    return Job(
        "retrieve_ads",
        "candidate ads of each user from what similar users engaged with",
        ("user_edges", "events", "ads"),
        ("ad_candidates", "serving_candidates"),
        lambda config: as_of_scope(config.time.as_of_ms),
        lambda context, run: retrieve(context, run, since_ms),
    )


JOB = job()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = job_parser(JOB)
    parser.add_argument("--since", default="", metavar="TIME", help="the as_of of the graph, where that is not time.as_of")

    def action(options: argparse.Namespace) -> None:
        chosen = job(parse_time(options.since, "--since")) if options.since else JOB
        run_job(options, chosen)

    guarded(action, parser.parse_args(arguments))


if __name__ == "__main__":
    main()

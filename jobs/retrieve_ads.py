"""user_edges, events, ads -> ad_candidates: ads through similar users, at one as_of; with transfer.retrieval.head by that head, too.

--since TIME takes the graph and the vectors of an earlier as_of and everything that its users did until time.as_of: so what happened in
the last hours counts before there is a new graph (ALURE's user real-time activities).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from alure_spark.clock import format_time, parse_time
from alure_spark.events.standalone_rows import upstream_model, vectors_of_day
from alure_spark.inference.registered import head_of
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.plots import histogram
from alure_spark.retrieval.candidate_table import retrieved_edges, searched, write_candidates
from alure_spark.running import Context, Job, Report, guarded, job_parser, run_job


def retrieve(context: Context, run: JobRun, since_ms: int | None = None) -> Report:
    edges, config, standalone, texts = retrieved_edges(run.read("user_edges"), context.config, since_ms), context.config, None, {}
    if config.transfer.retrieval.head:
        made = config if since_ms is None else replace(config, time=replace(config.time, as_of=format_time(since_ms)))
        upstream = upstream_model(run, made)
        head, texts["retrieve_ads/standalone.txt"] = head_of(config, context.tracker, upstream)
        standalone = searched(run, config, *vectors_of_day(run, made, upstream), head.head().query) if head else None
    metrics, listed = write_candidates(run, config, edges, standalone)
    figure = histogram(listed["ads"].to_numpy(), listed["count"].to_numpy(), "ads retrieved per user", "users") if len(listed) else None
    return Report(metrics, {"retrieve_ads/ads_per_user.png": figure} if figure else {}, texts)


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
    parser.add_argument("--since", default="", metavar="TIME", help="the as_of of graph and vectors, where that is not time.as_of")

    def action(options: argparse.Namespace) -> None:
        run_job(options, job(parse_time(options.since, "--since")) if options.since else JOB)

    guarded(action, parser.parse_args(arguments))


if __name__ == "__main__":
    main()

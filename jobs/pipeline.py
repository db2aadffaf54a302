"""The whole chain in order, in one session and one MLflow run: --from STAGE --to STAGE choose a part.

Where the conf has ranking.fields, a ranking model is trained and candidates are ranked; where it has transfer.layer, representations made,
and with transfer.retrieval.head a head that finds ads by them.

--from-day DAY --to-day DAY run it for every day in turn, each as time.as_of and in an MLflow run of its own: with ingest.batch_days,
labels.days and training.warm_start that is a model which goes on learning day after day. Where the conf has policies or experiments for
segments, jobs/correlate_dwell.py runs before the sequences are built.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from alure_spark.config import load
from alure_spark.running import Job, argument_parser, days_between, guarded, part_of, run_options


def job_of(name: str) -> Job:
    """The job of jobs/NAME.py: the pipeline knows its stages by name only."""
    found: Job = import_module(f"jobs.{name}").JOB
    return found


# Stage -> the part of the chain (Config.parts) that it belongs to.
OPTIONAL = {"extract_representations": "transferred", "train_retrieval": "standalone"}
OPTIONAL |= dict.fromkeys(("train_ranking", "score_impressions"), "ranked")
FIRST = ("ingest_events", "build_sequences", "train_model", "embed_users", "extract_representations", "train_retrieval")
ORDER = (*FIRST, "build_graph", "retrieve_ads", "train_ranking", "score_impressions", "evaluate")
STAGES = {name: job_of(name) for name in ORDER}


def stages(first: str = "", last: str = "", segmented: bool = False, **wanted: bool) -> list[Job]:
    """Jobs from the first to the last stage; wanted: parts of OPTIONAL. Raises ConfigError on an unknown or reversed pair."""
    names = part_of([name for name in ORDER if wanted.get(OPTIONAL.get(name, ""), name not in OPTIONAL)], first, last)
    chosen = [STAGES[name] for name in names]
    if segmented and "build_sequences" in names:
        chosen.insert(names.index("build_sequences"), job_of("correlate_dwell"))
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--from", dest="first", default="", metavar="STAGE", help=f"first stage: {', '.join(STAGES)}")
    parser.add_argument("--to", dest="last", default="", metavar="STAGE", help="last stage")
    parser.add_argument("--from-day", default="", metavar="TIME", help="run for every day from here, each as time.as_of")
    parser.add_argument("--to-day", default="", metavar="TIME", help="the last of these days (default: time.as_of)")

    def run(options: argparse.Namespace) -> None:
        config = load(options.conf, options.set)
        jobs = stages(options.first, options.last, config.segmented, **config.parts)
        run_options(options, jobs, "pipeline", days_between(options, "from_day", "to_day"))

    guarded(run, parser.parse_args(arguments))


if __name__ == "__main__":
    main()

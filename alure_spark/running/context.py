"""What jobs work with, and several of them in order in one MLflow run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import Config, as_dict
from ..lake import Lake
from ..masking import remember
from ..session import get_session
from ..tracking import Tracker
from .terminal import say

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from .job import Job


@dataclass
class Context:
    """What a job works with."""

    config: Config
    spark: SparkSession
    lake: Lake
    tracker: Tracker
    against: str = ""  # run to compare with (evaluate)
    force: bool = False  # take a load that is off (ingest_events)


def open_context(config: Config, against: str = "") -> Context:
    """Session, lake and tracker for a configuration (also for notebooks and tests)."""
    remember(as_dict(config))
    spark = get_session(config.spark, f"alure_spark {config.name}")
    return Context(config, spark, Lake(spark, config.lake), Tracker(config.tracking), against)


def run_jobs(context: Context, jobs: Sequence[Job], name: str) -> None:
    """Execute the jobs with a progress bar over them, in one MLflow run."""
    from tqdm import tqdm

    with context.tracker.run(name, context.config):
        bar = tqdm(jobs, unit="stage", disable=len(jobs) < 2 or not sys.stderr.isatty())
        for job in bar:
            bar.set_description(job.name)
            job.execute(context)
        run_id = context.tracker.run_id
    say(f"MLflow run {run_id} in {context.tracker.place}")

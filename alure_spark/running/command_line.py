"""The command line of jobs: their options, the days that they run for, and what is done with both."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..clock import DAY_MS, format_time, parse_time
from ..config import load
from ..errors import ConfigError
from .context import open_context, run_jobs

if TYPE_CHECKING:
    from .job import Job


def job_parser(job: Job) -> argparse.ArgumentParser:
    """The options of a job that runs for one as_of or for many."""
    parser = argument_parser(job.doc)
    parser.add_argument("--from", dest="first", default="", metavar="TIME", help="run for every day from here, each as time.as_of")
    parser.add_argument("--to", dest="last", default="", metavar="TIME", help="the last of these days (default: time.as_of)")
    return parser


def run_job(options: argparse.Namespace, job: Job) -> None:
    run_options(options, [job], job.name, days_between(options, "first", "last"))


def argument_parser(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--conf", required=True, help="a YAML file, e.g. conf/demo.yml")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one value (repeatable)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be read and written, and write nothing")
    parser.add_argument("--explain-memory", action="store_true", help="say what a worker will hold in memory, and write nothing")
    parser.add_argument("--force", action="store_true", help="take a load of events that is off against the last one, or empty")
    parser.add_argument("--against", default="", metavar="RUN", help="compare the evaluation with that of an earlier run (MLflow run id)")
    return parser


def days_between(options: argparse.Namespace, first: str, last: str) -> list[int]:
    """The as_ofs, epoch ms, from the option named first to that named last; empty without them. Raises ConfigError when reversed."""
    begin, end = getattr(options, first), getattr(options, last)
    if not (begin or end):
        return []
    stop = parse_time(end, "the last day") if end else load(options.conf, options.set).time.as_of_ms
    start = parse_time(begin, "the first day") if begin else stop
    if start > stop:
        raise ConfigError(f"the first day, {format_time(start)}, comes after the last, {format_time(stop)}")
    days = list(range(start, stop + 1, DAY_MS))
    if days[-1] != stop:
        raise ConfigError(
            f"days from {format_time(start)} on end at {format_time(days[-1])}, "
            f"not at the last, {format_time(stop)}: give both the same hour"
        )
    return days


def run_options(options: argparse.Namespace, jobs: Sequence[Job], name: str, days: Sequence[int] = ()) -> None:
    """What the command line asks for: explain the jobs, or run them in order in one session and one MLflow run of that name.

    With days (epoch ms), once for each as time.as_of, in order: every day is published by itself.
    """
    context = open_context(load(options.conf, options.set), options.against)
    context.force = options.force
    moments = [replace(context.config.time, as_of=format_time(day)) for day in days] or [context.config.time]
    for moment in moments:
        context.config = replace(context.config, time=moment)
        if options.dry_run or options.explain_memory:
            for job in jobs:
                if options.dry_run:
                    job.explain(context)
                if options.explain_memory:
                    job.explain_memory(context)
        else:
            run_jobs(context, jobs, name)

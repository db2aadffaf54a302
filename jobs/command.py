"""What every job shares: the command line, the session, one published run, and its MLflow record.

    python -m jobs.build_graph --conf conf/demo.yml --set graph.k2=10
    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/build_graph.py --conf conf/demo.yml

A job is data first: its tables are published before anything goes to MLflow. A mistake of conf or data ends with exit code 2
and one sentence.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from alure_spark.clock import DAY_MS, format_time, parse_time
from alure_spark.config import Config, as_dict, load
from alure_spark.errors import AlureError, ConfigError, LeftoverError
from alure_spark.lake import JobRun, Lake
from alure_spark.masking import masked_text, remember
from alure_spark.session import get_session
from alure_spark.tracking import Tracker, git_commit

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pyspark.sql import SparkSession


def say(text: str) -> None:
    """Print the text without the secrets of the conf."""
    print(masked_text(text), flush=True)


@dataclass
class Report:
    """What a job has to say once its tables are published. A metric of None was not measurable (absent, not zero)."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # file name -> text; printed too


@dataclass
class Context:
    """What a job works with."""

    config: Config
    spark: SparkSession
    lake: Lake
    tracker: Tracker
    against: str = ""  # run to compare with (evaluate)
    force: bool = False  # take a load that is off (ingest_events)


@dataclass(frozen=True)
class Job:
    """One verb: the tables it reads and writes, the scope it replaces, and its body."""

    name: str
    doc: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    scope: Callable[[Config], str]
    body: Callable[[Context, JobRun], Report]
    memory: Callable[[Context], str] | None = None  # what --explain-memory prints
    plan: Callable[[Context], str] | None = None  # what --dry-run says besides the tables
    after: Callable[[Context], None] | None = None  # what is erased once the tables are published, before the next writer

    def execute(self, context: Context) -> None:
        """Run the body, publish its tables as one, then tell MLflow."""
        started = time.monotonic()
        with context.tracker.run(self.name, context.config) as tracker:
            leftover: LeftoverError | None = None
            try:
                after = partial(self.after, context) if self.after else None
                with context.lake.run(self.name, context.config, self.scope(context.config), git_commit(), after) as run:
                    report = self.body(context, run)
            except LeftoverError as error:  # the tables are published, so MLflow is told before this is said
                leftover = error
            tracker.published |= run.outputs
            tracker.log_inputs(context.lake.root, run.inputs)
            seconds = time.monotonic() - started
            tracker.log_metrics({f"{self.name}.{key}": value for key, value in (report.metrics | {"seconds": seconds}).items()})
            tracker.set_tag(f"alure.run_id.{self.name}", run.run_id)
            for table, content in run.content_hashes.items():
                tracker.set_tag(f"alure.content.{table}", content)
            for name, figure in report.figures.items():
                tracker.log_figure(figure, name)
            for name, text in report.texts.items():
                text = text if leftover is None else f"NOT ALL IS ERASED (the error says why); else:\n{text}"
                tracker.log_text(text, name)
                say(text)
        written = ", ".join(f"{name} v{version}" for name, version in run.outputs.items())
        say(f"{self.name}: published {written or 'no table'} in {seconds:.0f} s")
        if leftover is not None:
            raise leftover

    def explain(self, context: Context) -> None:
        """--dry-run: what would be read, replaced and how much; nothing is written."""
        say(f"{self.name}: {self.doc}")
        published = context.lake.published_versions()
        for name in self.reads:
            if name in published:
                files, size = context.lake.size(name)
                rows = context.lake.read(name).count()
                say(f"  reads   {name} v{published[name]}: {rows:,} rows, {files:,} files, {size / 1e6:,.1f} MB")
            else:
                say(f"  reads   {name}: not published yet")
        if self.plan:
            say(self.plan(context))
        for name in self.writes:
            say(f"  writes  {name} where {self.scope(context.config)} (now {f'v{published[name]}' if name in published else 'absent'})")

    def explain_memory(self, context: Context) -> None:
        """--explain-memory: what a worker will hold, where the job can tell; nothing is written."""
        if self.memory:
            say(self.memory(context))

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """The command line of a single job; exits with 2 after an AlureError."""
        guarded(lambda options: run_job(options, self), job_parser(self).parse_args(arguments))


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


class _Masking(logging.Formatter):
    """Without the secrets that other people's libraries log, such as the query of a URL."""

    def format(self, record: logging.LogRecord) -> str:
        return masked_text(super().format(record))


def guarded(action: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Do it; an AlureError ends the process with exit code 2 and its sentence. Nothing that is printed shows a secret of the conf."""
    said = logging.StreamHandler()
    said.setFormatter(_Masking("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[said])
    try:
        action(options)
    except AlureError as error:
        print(f"error: {masked_text(str(error))}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        print(masked_text(traceback.format_exc()), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # Python would print what was being handled as it is
        print(masked_text(traceback.format_exc()), file=sys.stderr)
        sys.exit(130)


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


def parameter(name: str, default: str, dbutils: Any = None) -> str:
    """A notebook's parameter: a widget on Databricks, else the environment variable ALURE_<NAME>, else the default."""
    if dbutils is not None:
        dbutils.widgets.text(name, default)
        return str(dbutils.widgets.get(name))
    return os.environ.get(f"ALURE_{name.upper()}", default)

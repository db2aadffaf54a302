"""A job that runs whenever a table of the lake has grown, until somebody stops it: Structured Streaming says when.

Where the work stands is the job's own affair: it is run as it would be by hand. So a stream that starts anew has nothing to remember, and
begins with the table as it is.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ..clock import format_time, parse_minutes
from ..config import load
from ..errors import ConfigError
from .command_line import job_parser
from .context import Context, open_context

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from .job import Job


def stream_parser(job: Job, setting: str) -> argparse.ArgumentParser:
    """The options of a job that can follow a stream. setting: what --every sets, in minutes."""

    def minutes(text: str) -> str:
        try:
            return f"{setting}={parse_minutes(text, '--every')}"
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser = job_parser(job)
    parser.add_argument(
        "--every", dest="set", action="append", type=minutes, metavar="15m", help=f"a step per so much of the log ({setting})"
    )
    parser.add_argument("--stream", action="store_true", help="go on with what comes, until stopped")
    return parser


def run_stream(options: argparse.Namespace, job: Job, table: str) -> None:
    """Run the job as its table grows, in one MLflow run, until somebody stops it."""
    context = open_context(load(options.conf, options.set))
    with context.tracker.run(job.name, context.config):
        Following(context, job, table).wait()


class Following:
    """The stream of a table's commits, which run the job with time.as_of at the clock: once for the rows of now, then as they come."""

    def __init__(self, context: Context, job: Job, table: str) -> None:
        self.context, self.job, self.failure = context, job, list[BaseException]()
        self.query = context.lake.stream(table).writeStream.foreachBatch(self._on_commits).start()

    def _on_commits(self, rows: DataFrame, number: int) -> None:
        """rows: not read, for they may not be published yet; the job waits for its turn, and reads what is."""
        now = replace(self.context.config.time, as_of=format_time(time.time_ns() // 1_000_000))
        self.context.config = replace(self.context.config, time=now)
        try:
            self.job.execute(self.context)
        except BaseException as error:  # Spark would say where in the JVM it was noticed
            self.failure.append(error)
            raise

    def wait(self) -> None:
        """Until somebody stops the stream. Raises what the job raised."""
        try:
            self.query.awaitTermination()
        except Exception as error:
            raise (self.failure or [error])[0] from None
        finally:
            self.query.stop()

"""One job: the tables that it reads and writes, and its body as one published run with its MLflow record.

A job is data first: its tables are published before anything goes to MLflow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..config import Config
from ..errors import LeftoverError
from ..lake import JobRun
from ..tracking import git_commit
from .command_line import job_parser, run_job
from .context import Context
from .report import Report
from .terminal import guarded, say


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

"""One job's reads and writes: what it reads is pinned, what it writes is its own, and nothing is visible until it is published."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, Row

from ..errors import LakeError
from ..session import DRIVER_OPTIONS, EXECUTOR_OPTIONS, JVM_ZONE, session_settings
from ..tables import table
from .content import hash_and_count
from .damage import sentence
from .store import UNCHANGED

if TYPE_CHECKING:
    from .publishing import Lake

COMMIT_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
CONCURRENT = re.compile(r"DELTA_CONCURRENT|Concurrent(Append|DeleteRead|DeleteDelete|Write|Transaction)Exception|DELTA_METADATA_CHANGED")


@dataclass
class JobRun:
    """One job's reads and writes. `read` pins versions; `write` commits a scope; nothing is visible until the run is published."""

    lake: Lake
    job: str
    config_hash: str
    scope: str
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    content_hashes: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)  # what later runs must know of this one
    turn: dict[str, int] | None = None  # what was published when this run's turn came; None outside of `Lake.run`
    _heads: dict[str, int] = field(default_factory=dict)  # table that this run writes -> the version up to which all commits are known
    _rows: dict[str, int] = field(default_factory=dict)  # table -> rows that Delta says were written last

    def read(self, name: str) -> DataFrame:
        """The published rows of the table, at one version for the whole run."""
        return self.lake.read(name, self.read_version(name))

    def read_if_published(self, name: str) -> DataFrame | None:
        """The same, or None where no run has published the table yet."""
        return self.read(name) if name in self.inputs or name in self.lake.published_versions() else None

    def read_version(self, name: str) -> int:
        """The version that `read` reads."""
        if name not in self.inputs:
            self.inputs[name] = self.lake.require_version(name)
        return self.inputs[name]

    def write(self, name: str, frame: DataFrame, scope: str = "true", append: bool = False) -> int:
        """Replace the rows of the scope (a SQL predicate) by the frame, or append; returns the row count of what was written.

        The frame must have the table's required columns, non-null; every row must lie in the scope.
        """
        of = table(name)
        with self._writing(name):
            self.lake.commit(of, frame, scope, self.run_id, append)
        self.content_hashes[name], rows = hash_and_count(self.written(name).where(scope), of)
        if rows < self._rows[name]:
            raise LakeError(
                f"of {self._rows[name]:,} rows that were written to table '{name}', {rows:,} are in the scope {scope!r}: nothing is "
                "published. Delta moves the times of partitions where the JVM of an executor is not in UTC: give the cluster "
                f"{DRIVER_OPTIONS} and {EXECUTOR_OPTIONS} with {JVM_ZONE}"
            )
        return rows

    def written(self, name: str) -> DataFrame:
        """The rows of the table as this run has left them; not published yet."""
        return self.lake.read(name, self.outputs[name])

    def delete(self, name: str, users: DataFrame) -> int:
        """Delete the rows of the table that name one of the users (a frame with the column user_id); returns how many."""
        with self._writing(name):
            before = self.lake.read(name, self.read_version(name)).count()
            self.lake.delete(table(name), users, self.run_id)
        self.content_hashes[name], after = hash_and_count(self.written(name), table(name))
        return before - after

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Around the commits of a write; afterwards all that came since the table was recovered must be this run's.

        Raises LakeError on a commit of anybody else: what a killed writer had begun may end now (a Spark Connect server goes on without
        its client), and an append would publish it. The rollback that follows undoes both.
        """
        if name not in self._heads:
            self._heads[name] = self.lake.recover(name, self)
        try:
            with session_settings(self.lake.spark, {COMMIT_METADATA: self.run_id}):  # statements too say whose commit theirs is
                yield
        except Exception as error:
            if CONCURRENT.search(str(error)):
                raise LakeError(f"{_interrupted(name)} ({sentence(error)})") from error
            if lost := self.lake.lost_file(error):
                raise lost from error
            if "DELTA_CANNOT_MODIFY_APPEND_ONLY" in str(error):
                allow = f"ALTER TABLE {self.lake.location(name)} SET TBLPROPERTIES ('delta.appendOnly' = 'false')"
                raise LakeError(
                    f"somebody has made table '{name}' in lake {self.lake.root} append-only, so that no row of it can be replaced or "
                    f"erased; nothing was changed. Say {allow} and run the job again"
                ) from error
            raise
        commits = self.lake.commits_since(name, self._heads[name])
        if any(commit["userMetadata"] != self.run_id and commit["operation"] not in UNCHANGED for commit in commits):
            raise LakeError(_interrupted(name))
        if commits:
            self._heads[name] = commits[0]["version"]
        self._rows[name] = sum(_rows_of(commit) for commit in commits)
        self.outputs[name] = self._heads[name]

    def rollback(self) -> None:
        """Undo what was written, and nothing of a run that was published since."""
        self.lake.refresh()
        for name in self._heads:
            self.lake.recover(name)


def _rows_of(commit: Row) -> int:
    """New rows of a write; 0 where Delta keeps no metrics."""
    metrics = (commit["operationMetrics"] or {}) if commit["operation"] == "WRITE" else {}
    return int(metrics.get("numOutputRows", 0)) - int(metrics.get("numCopiedRows", 0))


def _interrupted(name: str) -> str:
    return (
        f"table '{name}' was written to by another program, or by what is left of a killed job, while this run wrote: nothing is "
        "published, run the job again"
    )

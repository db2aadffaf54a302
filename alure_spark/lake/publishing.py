"""Delta tables at fixed versions: read what was published, replace exactly a job's scope, publish all or nothing.

A lake is a folder of Delta tables or a `catalog.schema`. A job writes its tables inside `lake.run(...)`; the last thing it
does is append one row to `runs` that names the Delta version of every table it wrote. Readers read the newest version that
a published row names, so a job that fails or is killed half-way is never seen: on failure the run restores the tables, and
after a kill the next writer does (it finds commits that no published row names).

One job writes to a lake at a time: its first act is a row `started` in `runs`. Whoever finds an older living one waits or gives up.
"""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ..config import Config, LakeConfig
from ..errors import LakeError
from ..tables import RUNS, SCHEMA_VERSION, table
from .content import hash_and_count
from .store import Store, completed
from .writers import is_alive, this_process

logger = logging.getLogger(__name__)
# Runs of this process that have not ended: one that could not even write that it failed (a full disk) must not stand in the way.
_writing: set[str] = set()


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
    _before: dict[str, int | None] = field(default_factory=dict)

    def read(self, name: str) -> DataFrame:
        """The published rows of the table, at one version for the whole run."""
        return self.lake.read(name, self.read_version(name))

    def read_version(self, name: str) -> int:
        """The version that `read` reads."""
        if name not in self.inputs:
            self.inputs[name] = self.lake.require_version(name)
        return self.inputs[name]

    def write(self, name: str, frame: DataFrame, scope: str = "true", append: bool = False) -> int:
        """Replace the rows of the scope (a SQL predicate) by the frame, or append; returns the row count of what was written.

        The frame must have the table's required columns, non-null; every row must lie in the scope.
        """
        if name not in self._before:
            self._before[name] = self.lake.recover(name)
        of = table(name)
        self.outputs[name] = self.lake.commit(of, frame, scope, self.run_id, append)
        written = self.lake.read(name, self.outputs[name]).where(scope)
        self.content_hashes[name], rows = hash_and_count(written, of)
        return rows

    def delete(self, name: str, users: DataFrame) -> int:
        """Delete the rows of the table that name one of the users (a frame with the column user_id); returns how many."""
        self._before[name] = self.lake.recover(name)
        before = self.lake.read(name, self.read_version(name)).count()
        self.outputs[name] = self.lake.delete(table(name), users, self.run_id)
        self.content_hashes[name], after = hash_and_count(self.lake.read(name, self.outputs[name]), table(name))
        return before - after

    def rollback(self) -> None:
        for name, version in self._before.items():
            self.lake.restore(name, version)


class Lake(Store):
    """The tables under one root."""

    def __init__(self, spark: SparkSession, config: LakeConfig) -> None:
        super().__init__(spark, config)
        self._published: dict[str, int] | None = None

    def refresh(self) -> None:
        """Forget what is known of the tables; the next read looks again."""
        self._published = None
        self._schema_versions = {}

    def published_versions(self) -> dict[str, int]:
        """Table -> the newest version that a published run names."""
        if self._published is None:
            self._published = {}
            if self.exists(RUNS.name):
                rows = self.runs().where("status = 'published'").select(F.explode("outputs").alias("name", "version"))
                newest = rows.groupBy("name").agg(F.max("version").alias("version")).collect()
                self._published.update({row["name"]: row["version"] for row in newest})
        return self._published

    def require_version(self, name: str) -> int:
        """The published version of the table. Raises LakeError naming the job that makes it."""
        versions = self.published_versions()
        if name not in versions:
            raise LakeError(f"table '{name}' is not published in lake {self.root}: run jobs/{table(name).producer}.py first")
        return versions[name]

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The rows of a table at a version (the newest published one by default). Raises LakeError."""
        version = self.require_version(name) if version is None else version
        self._check_schema_version(name)
        reader = self.spark.read.option("versionAsOf", version)
        frame = reader.format("delta").load(f"{self.root}/{name}") if self.is_folder else reader.table(self.location(name))
        return completed(frame, table(name))

    def runs(self) -> DataFrame:
        """The `runs` table as it is now."""
        reader = self.spark.read
        frame = reader.format("delta").load(f"{self.root}/runs") if self.is_folder else reader.table(self.location("runs"))
        return completed(frame, RUNS)

    @contextmanager
    def run(self, job: str, config: Config, scope: str, git_commit: str = "unknown") -> Iterator[JobRun]:
        """One job: published as a whole when the block ends, rolled back when it raises.

        Raises LakeError when another job is writing and does not end within lake.wait_minutes.
        """
        run = JobRun(self, job, config.digest(), scope)
        started = datetime.now(UTC)
        _writing.add(run.run_id)
        try:
            yield from self._run(run, started, git_commit)
        finally:
            _writing.discard(run.run_id)

    def _run(self, run: JobRun, started: datetime, git_commit: str) -> Iterator[JobRun]:
        self._record(run, started, git_commit, "started", this_process(), outputs={})
        try:
            self._take_turn(run.run_id)
            self.refresh()
            yield run
        except BaseException as error:
            try:
                run.rollback()
                self._record(run, started, git_commit, "failed", f"{type(error).__name__}: {error}"[:2000], outputs={})
            except Exception as second:  # readers are safe all the same: no published row names what this run wrote
                logger.warning(
                    "run %s of %s failed and could not be rolled back (%s); the next run will do it", run.run_id, run.job, second
                )
            raise
        self._record(run, started, git_commit, "published", None, outputs=run.outputs)

    def _record(
        self, run: JobRun, started: datetime, git_commit: str, status: str, message: str | None, outputs: Mapping[str, int]
    ) -> None:
        row = {
            "run_id": run.run_id, "job": run.job, "scope": run.scope, "config_hash": run.config_hash, "git_commit": git_commit,
            "inputs": run.inputs, "outputs": dict(outputs), "content_hashes": run.content_hashes if outputs else {},
            "schema_version": SCHEMA_VERSION, "started": started, "finished": datetime.now(UTC), "status": status, "message": message,
            "facts": run.facts if outputs else {},
        }  # fmt: skip
        self._create(RUNS)
        frame = self.spark.createDataFrame([tuple(row[name] for name in RUNS.column_names)], RUNS.ddl())
        self._migrate(RUNS)
        writer = frame.write.format("delta").mode("append").option("userMetadata", run.run_id).option("mergeSchema", "true")
        self._save(writer, RUNS.name)
        self.refresh()

    def _take_turn(self, run_id: str) -> None:
        """Return once no run that said `started` before this one is alive; before is the order of the commits, not of clocks."""
        deadline = time.monotonic() + 60 * self.config.wait_minutes
        while True:
            ended = self.runs().where("status <> 'started'").select("run_id")
            begun = self.runs().where("status = 'started'").join(ended, "run_id", "left_anti").orderBy("started")
            rows = begun.collect()
            commits = self.spark.sql(f"DESCRIBE HISTORY {self.location(RUNS.name)} LIMIT 200").select("userMetadata", "version").collect()
            place = {row["userMetadata"]: row["version"] for row in sorted(commits, key=lambda row: -row["version"])}  # a run's first one
            others = [row for row in rows if place.get(row["run_id"], -1) < place[run_id]]
            alive = [row for row in others if self._lives(row["run_id"], row["message"], row["started"])]
            if not alive:
                return
            if time.monotonic() >= deadline:
                first = alive[0]
                raise LakeError(
                    f"{first['job']} (run {first['run_id']}, process {first['message']}) has been writing to lake {self.root} since "
                    f"{first['started']:%Y-%m-%d %H:%M:%S} UTC: wait for it (lake.wait_minutes), or, if it is dead, set lake.lease_hours=0"
                )
            time.sleep(1)

    def _lives(self, run_id: str, process: str, started: datetime) -> bool:
        """Whether the writer may still be at work: on this machine its process is looked for, elsewhere its lease counts."""
        host, *own = process.split(" ")
        if process == this_process():
            return run_id in _writing
        if host == socket.gethostname():
            return is_alive(*map(int, own))
        return datetime.now(UTC).replace(tzinfo=None) - started < timedelta(hours=self.config.lease_hours)

    def recover(self, name: str) -> int | None:
        """Undo commits that no published run names (a killed writer's); returns the version to go back to, None for an empty table."""
        published = self.published_versions().get(name)
        if not self.exists(name):
            return None
        if published is None:
            self.restore(name, None)
        elif self._newest_commit(name)[0] > published:
            self.restore(name, published)
        return published

"""Delta tables at fixed versions: read what was published, replace exactly a job's scope, publish all or nothing.

A lake is a folder of Delta tables or a `catalog.schema`. A job writes its tables inside `lake.run(...)`; the last thing it
does is append one row to `runs` that names the Delta version of every table it wrote. Readers read the newest version that
a published row names, so a job that fails or is killed half-way is never seen: on failure the run restores the tables, and
after a kill the next writer does (it finds commits that no published row names).

One job writes to a lake at a time (turns.py). A job that erases files does so when its tables are published and before it lets the next
writer in.
"""

from __future__ import annotations

import logging
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from pyspark.sql import Column, DataFrame, Row, SparkSession

from ..clock import HOUR_MS, format_time
from ..config import Config, LakeConfig
from ..errors import LakeError, LeftoverError
from ..processes import identity, this_process
from ..run_messages import stored_message
from ..session import TIME_ZONE, session_settings
from ..tables import RUNS, SCHEMA_VERSION, table
from .damage import sentence
from .job_run import JobRun
from .old_files import vacuum, vacuum_runs
from .store import UNCHANGED, Store, completed
from .turns import ERASED_BEFORE, LEASE, killed_runs, say_what_is_due, standing, take_turn, writing_here

logger = logging.getLogger(__name__)
RUNS_FILES = 100  # each row of `runs` is a file at first: of more of them they become one again, for a run reads them all
# Operations that add no rows of their own: a table of which the rest is by runs of this lake holds nothing of anybody else.
HARMLESS = (
    "CREATE TABLE", "REPLACE TABLE", "SET TBLPROPERTIES", "DELETE", "RESTORE", "OPTIMIZE", "REORG",
    "VACUUM START", "VACUUM END",
)  # fmt: skip
# What Delta says where two writers make a table, or one changes its properties while the other adds rows.
AT_ONCE = re.compile(r"DELTA_PROTOCOL_CHANGED|DELTA_METADATA_CHANGED|DELTA_CONCURRENT|ALREADY_EXISTS|(Protocol|Metadata)Changed")
ATTEMPTS = 20  # of a second at most each
RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class _Writer:
    """What all rows of a run say of who writes."""

    started: datetime
    git_commit: str


class Lake(Store):
    """The tables under one root."""

    def __init__(self, spark: SparkSession, config: LakeConfig) -> None:
        super().__init__(spark, config)
        self._published: dict[str, int] | None = None
        self._readable: dict[str, int] = {}

    def refresh(self) -> None:
        """Forget what is known of the tables; the next read looks again."""
        self._published = None
        self._readable = {}
        self._properties = {}

    def published_versions(self) -> dict[str, int]:
        """Table -> the newest version that a published run names."""
        if self._published is None:
            self._published = standing(self).published if self.is_ours(RUNS.name) else {}
        return self._published

    def require_turn(self, run: JobRun) -> None:
        """Raises LakeError where another run has published since this one's turn came: this one was taken for dead (lake.lease_hours)."""
        if run.turn is not None and (now := standing(self).published) != run.turn:
            names = ", ".join(sorted(name for name in now if now[name] != run.turn.get(name))) or "tables"
            raise LakeError(
                f"another run, which took this one for dead (lake.lease_hours), has published {names} since: nothing of this one is "
                "published; run the job again"
            )

    def require_version(self, name: str) -> int:
        """The version that holds the table's published rows: the published one, or what somebody made of it by OPTIMIZE.

        Raises LakeError naming the job that makes the table, or where its log, or that of `runs`, has lost commits.
        """
        versions = self.published_versions()
        if name not in versions:
            raise LakeError(f"table '{name}' is not published in lake {self.root}: run jobs/{table(name).producer}.py first")
        if name not in self._readable:
            self._readable[name] = self._since_published(name, versions[name])[0]
        return self._readable[name]

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The rows of a table at a version (the newest published one by default). Raises LakeError."""
        version = self.require_version(name) if version is None else version
        if not self.is_ours(name, again=False):
            raise self.damaged(name, f"is not there, but version {version} of it was published")
        with self.reading(name):
            return completed(self._load(name, version), table(name))

    def stream(self, name: str) -> DataFrame:
        """The table as a stream: its rows of now, then those of each commit, published or not; what replaces rows comes as new rows.

        Whoever is woken by it reads what is published. Raises LakeError where the table is not published.
        """
        self.require_version(name)
        reader = self.spark.readStream.format("delta").option("ignoreChanges", "true")
        return reader.load(f"{self.root}/{name}") if self.is_folder else reader.table(self.location(name))

    def runs(self, *more: Column) -> DataFrame:
        """The `runs` table as it is now; more: what else of its rows is asked for."""
        self.is_ours(RUNS.name, again=False)
        with self.reading(RUNS.name):
            return completed(self._load(RUNS.name).select("*", *more), RUNS)

    def _load(self, name: str, version: int | None = None) -> DataFrame:
        reader = self.spark.read if version is None else self.spark.read.option("versionAsOf", version)
        return reader.format("delta").load(f"{self.root}/{name}") if self.is_folder else reader.table(self.location(name))

    @contextmanager
    def run(
        self, job: str, config: Config, scope: str, git_commit: str = "unknown", after: Callable[[], None] | None = None
    ) -> Iterator[JobRun]:
        """One job: published as a whole when the block ends, rolled back when it raises. The session is in UTC meanwhile.

        after: what is to be erased once the tables are published; the next writer waits for it. Raises LakeError when another job is
        writing and does not end within lake.wait_minutes, and LeftoverError when the tables are published and `after` failed.
        """
        run = JobRun(self, job, config.digest(), scope)
        writing_here.add(run.run_id)
        try:
            with session_settings(self.spark, {TIME_ZONE: "UTC"}):
                yield from self._run(run, _Writer(datetime.now(UTC), git_commit), after)
        finally:
            writing_here.discard(run.run_id)

    def _run(self, run: JobRun, writer: _Writer, after: Callable[[], None] | None) -> Iterator[JobRun]:
        with self.writing():
            self._patiently(partial(self._record, run, writer, "started", this_process(), facts=identity()))
        try:
            now = take_turn(self, run.run_id)
            self.refresh()
            self._published = run.turn = now.published
            if now.files > RUNS_FILES:
                self.spark.sql(f"OPTIMIZE {self.location(RUNS.name)}")
            say_what_is_due(self, run.job)
            yield run
            hashes, facts = (run.content_hashes, run.facts) if run.outputs else ({}, {})
            self.require_turn(run)
            self._patiently(partial(self._record, run, writer, "published", None, run.outputs, hashes, facts | (LEASE if after else {})))
        except BaseException as error:
            for step in (run.rollback, partial(self._record, run, writer, "failed", stored_message(error))):
                try:
                    step()
                except BaseException as second:  # a second Ctrl-C, too: the row `failed` lets the next writer in
                    # Readers are safe all the same: no published row names what this run wrote.
                    logger.warning(
                        "run %s of %s failed and could not be rolled back (%s); the next run will do it", run.run_id, run.job, second
                    )
            if lost := self.lost_file(error):
                raise lost from error
            raise
        if after:
            self._erase(run, writer, after)

    def _erase(self, run: JobRun, writer: _Writer, after: Callable[[], None]) -> None:
        """What is erased once the tables are published; however it ends, the row `ended` lets the next writer in."""
        failure: BaseException | None = None
        before = format_time(int(time.time() * 1000) - math.ceil(self.config.vacuum_hours) * HOUR_MS)
        try:
            after()
        except BaseException as error:  # Ctrl-C too: the next writer must not wait for it
            failure = error
        try:
            if failure is None:
                self._patiently(partial(self._record, run, writer, "ended", None, facts={ERASED_BEFORE: before}))
            else:
                self._patiently(partial(self._record, run, writer, "ended", stored_message(failure)))
        except Exception as error:  # a full disk; this process no longer counts as a writer all the same
            failure = failure or error
        if failure is not None and not isinstance(failure, Exception):
            raise failure
        if failure is not None:
            done = f"{run.job} is published ({', '.join(sorted(run.outputs))}), but not" if run.outputs else f"{run.job}: not"
            raise LeftoverError(
                f"{done} all that it was to erase is erased ({sentence(failure)}): old files can still be read; remove the cause and "
                "run it again"
            ) from failure

    def _record(
        self,
        run: JobRun,
        writer: _Writer,
        status: str,
        message: str | None,
        outputs: Mapping[str, int] | None = None,
        content_hashes: Mapping[str, str] | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        row = {
            "run_id": run.run_id, "job": run.job, "scope": run.scope, "config_hash": run.config_hash, "git_commit": writer.git_commit,
            "inputs": run.inputs, "outputs": dict(outputs or {}), "content_hashes": dict(content_hashes or {}),
            "schema_version": SCHEMA_VERSION, "started": writer.started, "finished": datetime.now(UTC), "status": status,
            "message": message, "facts": dict(facts or {}),
        }  # fmt: skip
        self._create(RUNS)
        frame = self.spark.createDataFrame([tuple(row[name] for name in RUNS.column_names)], RUNS.ddl())
        self._migrate(RUNS)
        delta = frame.write.format("delta").mode("append").option("userMetadata", run.run_id).option("mergeSchema", "true")
        self._save(delta, RUNS.name)
        self.refresh()

    def _patiently(self, write: Callable[[], None]) -> None:
        """Again where another writer has made `runs`, or changed its properties, at the same moment: Delta has written nothing then."""
        for rest in range(ATTEMPTS, -1, -1):
            try:
                return write()
            except Exception as error:
                if not rest or not AT_ONCE.search(str(error)):
                    raise
                time.sleep(random.uniform(0.1, 1))
                self.refresh()

    def _since_published(self, name: str, published: int) -> tuple[int, list[Row]]:
        """The newest version with the published rows, and the commits after it, the oldest first.

        Raises LakeError where the table's log ends below the published version or lacks commits since, which a killed run may have made,
        or `runs` does not know a run that wrote since.
        """
        if not self.is_ours(name, again=False):
            raise self.damaged(name, f"is not there, but version {published} of it was published")
        commits = self.commits_since(name, published - 1)
        if not commits and (newest := self.newest_version(name)) < published:
            raise self.damaged(name, f"ends at version {newest}, but version {published} of it was published")
        if commits and commits[-1]["version"] > published and (killed := killed_runs(self)):
            lost = f"has lost the commits from the published version {published} on"
            raise self.damaged(name, f"{lost}, and run {killed[0]}, which was killed, may have written since")
        same, equal, later = True, {published}, list[Row]()
        for commit in reversed([one for one in commits if one["version"] > published]):
            if commit["operation"] == "RESTORE":
                same = int((commit["operationParameters"] or {}).get("version") or -1) in equal
            else:
                same = same and commit["operation"] in UNCHANGED
            if same:
                equal.add(commit["version"])
                later.clear()
            else:
                later.append(commit)
        published = max(equal)
        writers = {commit["userMetadata"] for commit in later if commit["operation"] not in HARMLESS}
        ours = {one for one in writers if one and RUN_ID.fullmatch(one)}
        if ours and (unknown := ours - self._run_ids()):
            raise self.damaged(RUNS.name, f"does not know run {min(unknown)}, which wrote to table '{name}' after version {published}")
        return published, later

    def _run_ids(self) -> set[str]:
        return {row["run_id"] for row in self.runs().select("run_id").distinct().collect()}

    def recover(self, name: str, run: JobRun | None = None) -> int:
        """Undo commits that no published run names (a killed writer's); returns the newest version then, -1 where there is no table.

        run: which does so, if its turn has not passed. Raises LakeError where it has, the table is not ours, or its log, or that of
        `runs`, has lost commits.
        """
        published, there = self.published_versions().get(name), self.is_ours(name)
        if published is None and not there:
            return -1
        version, later = (None, []) if published is None else self._since_published(name, published)
        if version is not None and not later:
            return version
        if run is not None:  # else what another run has published since would be undone
            self.require_turn(run)
        if version is None:
            self._check_unpublished(name)
        self.restore(name, version)
        return self.newest_version(name)

    def _check_unpublished(self, name: str) -> None:
        """A table that no run published is emptied only where runs of this lake filled it. Raises LakeError."""
        with self.reading(name):
            commits = self.spark.sql(f"DESCRIBE HISTORY {self.location(name)}").select("operation", "userMetadata").collect()
        filled = {row["userMetadata"] for row in commits if row["operation"] not in HARMLESS}
        if filled and filled - self._run_ids():
            raise self._foreign(name, "a table that was filled by no run of this lake")

    def vacuum(self, name: str, hours: float) -> None:
        """Erase the files that neither the published version nor any version of the last `hours` needs. Only inside a run."""
        self.recover(name)
        vacuum(self, name, hours)

    def vacuum_runs(self, hours: float) -> None:
        """The same of `runs`, whose older versions hold messages that an erasure took out. Only inside a run."""
        vacuum_runs(self, hours)

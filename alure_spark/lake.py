"""Delta tables at fixed versions: read what was published, replace exactly a job's scope, publish all or nothing.

A lake is a folder of Delta tables or a `catalog.schema`. A job writes its tables inside `lake.run(...)`; the last thing it
does is append one row to `runs` that names the Delta version of every table it wrote. Readers read the newest version that
a published row names, so a job that fails or is killed half-way is never seen: on failure the run restores the tables, and
after a kill the next writer does (it finds commits that no published row names).

One job writes to a lake at a time: its first act is a row `started` in `runs`. Whoever finds an older living one waits or gives up.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from .config import Config, LakeConfig, format_time
from .errors import ConfigError, LakeError
from .run_messages import stored_message
from .tables import RUNS, SCHEMA_VERSION, Table, table

logger = logging.getLogger(__name__)
VERSION_PROPERTY = "alure.schema_version"
# Runs of this process that have not ended: one that could not even write that it failed (a full disk) must not stand in the way.
CLOCK_SLACK_S = 5  # a process seems to begin elsewhere when the clock is set
_writing: set[str] = set()
SAFE_VACUUM_HOURS = 168  # Delta asks to confirm a shorter one: a reader of an older version would lose its files


UNITS = 1_000_000_000


def timestamp(epoch_ms: int) -> Column:
    """The moment as a TIMESTAMP literal (the session runs in UTC)."""
    return F.lit(format_time(epoch_ms)).cast("timestamp")


def in_units(value: Column) -> Column:
    """The number in whole billionths (UNITS): what is summed that way is the same in any order of adding."""
    return F.round(value * UNITS).cast("bigint")


def as_of_scope(as_of_ms: int) -> str:
    """The SQL predicate of one as_of: the scope that most jobs replace."""
    return f"as_of = TIMESTAMP '{format_time(as_of_ms)}'"


def latest_rows(frame: DataFrame, as_of_ms: int | None = None, key: str = "user_id") -> DataFrame:
    """Each key's newest row, at or before as_of if it is given (rows exist only for touched users: house rule 3)."""
    newest = Window.partitionBy(key).orderBy(F.col("as_of").desc())
    rows = frame if as_of_ms is None else frame.where(F.col("as_of") <= timestamp(as_of_ms))
    return rows.withColumn("_newest", F.row_number().over(newest)).where("_newest = 1").drop("_newest")


def row_hash(frame: DataFrame, columns: list[str]) -> Column:
    """BIGINT hash of a row that also tells nulls and array borders apart (xxhash64 alone skips both)."""
    types = {item.name: item.dataType for item in frame.schema.fields}
    parts: list[Column] = []
    for name in columns:
        parts += [F.col(name), F.col(name).isNull()]
        if isinstance(types[name], T.ArrayType):
            parts.append(F.size(name))
    return F.xxhash64(*parts)


def content_hash(frame: DataFrame, of: Table | None = None) -> str:
    """Order-free hash of the rows, 16 hex digits; leaves out the table's run ids and clocks, so equal content has equal hash."""
    return hash_and_count(frame, of)[0]


def hash_and_count(frame: DataFrame, of: Table | None = None) -> tuple[str, int]:
    """`content_hash` and the number of rows, in one pass."""
    left_out = of.not_content if of else ()
    columns = sorted(name for name in frame.columns if name not in left_out)
    hashed = frame.select(row_hash(frame, columns).alias("h"))
    row = hashed.agg(
        F.count("*").alias("n"),
        F.coalesce(F.sum(F.col("h").cast("decimal(38,0)")), F.lit(0)).alias("s"),
        F.coalesce(F.bit_xor("h"), F.lit(0)).alias("x"),
    )
    found = row.select(F.sha2(F.concat_ws(":", F.lit(",".join(columns)), "n", "s", "x"), 256), "n").first()
    assert found is not None
    return str(found[0])[:16], int(found[1])


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


class Lake:
    """The tables under one root."""

    def __init__(self, spark: SparkSession, config: LakeConfig) -> None:
        self.spark = spark
        self.is_folder = "/" in config.root or ":" in config.root
        # Delta's SQL names folders by absolute path only.
        self.root = os.path.abspath(config.root) if self.is_folder and ":" not in config.root else config.root.rstrip("/")
        self.config = config
        self._published: dict[str, int] | None = None
        self._schema_versions: dict[str, str | None] = {}  # as looked up since the last refresh
        if not self.is_folder:
            spark.sql(f"CREATE SCHEMA IF NOT EXISTS {self.root}")

    def location(self, name: str) -> str:
        """The table as SQL names it."""
        return f"delta.`{self.root}/{name}`" if self.is_folder else f"{self.root}.`{name}`"

    def exists(self, name: str) -> bool:
        """Whether the Delta table is there (published or not)."""
        try:
            self.spark.sql(f"DESCRIBE DETAIL {self.location(name)}").first()
        except Exception as error:
            if re.search(r"NOT_FOUND|DELTA_MISSING_DELTA_TABLE|doesn't exist|not exist|is not a Delta table|ONLY_OPERATION", str(error)):
                return False
            raise
        return True

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
            raise LakeError(f"table '{name}' is not published in lake {self.root}: run jobs/{PRODUCERS.get(name, 'pipeline')}.py first")
        return versions[name]

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The rows of a table at a version (the newest published one by default). Raises LakeError."""
        version = self.require_version(name) if version is None else version
        self._check_schema_version(name)
        reader = self.spark.read.option("versionAsOf", version)
        frame = reader.format("delta").load(f"{self.root}/{name}") if self.is_folder else reader.table(self.location(name))
        return _completed(frame, table(name))

    def runs(self) -> DataFrame:
        """The `runs` table as it is now."""
        reader = self.spark.read
        frame = reader.format("delta").load(f"{self.root}/runs") if self.is_folder else reader.table(self.location("runs"))
        return _completed(frame, RUNS)

    def size(self, name: str) -> tuple[int, int]:
        """(files, bytes) of the table's current version."""
        detail = self.spark.sql(f"DESCRIBE DETAIL {self.location(name)}").first()
        assert detail is not None
        return detail["numFiles"], detail["sizeInBytes"]

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
        self._record(run, started, git_commit, "started", _this_process(), outputs={})
        try:
            self._take_turn(run.run_id)
            self.refresh()
            yield run
        except BaseException as error:
            try:
                run.rollback()
                self._record(run, started, git_commit, "failed", stored_message(error), outputs={})
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
        if process == _this_process():
            return run_id in _writing
        if host == socket.gethostname():
            return _is_alive(*map(int, own))
        return datetime.now(UTC).replace(tzinfo=None) - started < timedelta(hours=self.config.lease_hours)

    def commit(self, of: Table, frame: DataFrame, scope: str, run_id: str, append: bool) -> int:
        """Write one Delta commit; returns its version. Raises LakeError when columns are missing."""
        missing = [name for name in of.column_names if name not in frame.columns]
        if missing:
            raise LakeError(f"table '{of.name}' needs the columns {', '.join(missing)}")
        extra = [name for name in frame.columns if name not in of.column_names]
        if extra and not of.open:
            raise LakeError(f"table '{of.name}' has no column {', '.join(extra)}; known: {', '.join(of.column_names)}")
        self._create(of)
        self._migrate(of)
        fixed = [F.col(column.name).cast(column.type).alias(column.name) for column in of.columns]
        frame = frame.select(*fixed, *sorted(extra))
        writer = frame.write.format("delta").option("userMetadata", run_id).option("mergeSchema", "true")
        if append:
            writer = writer.mode("append")
        else:
            writer = writer.mode("overwrite")
            if scope != "true":
                writer = writer.option("replaceWhere", scope)
        self._save(writer.partitionBy(*of.partitions) if of.partitions else writer, of.name)
        return self._newest_commit(of.name)[0]

    def delete(self, of: Table, users: DataFrame, run_id: str) -> int:
        """Delete the rows that name one of the users; returns the version. One commit per expression of `of.users`."""
        for expression in of.users:
            view = f"forgotten_{run_id}"
            users.select(F.col("user_id").alias("_forgotten")).distinct().createOrReplaceTempView(view)
            self.spark.sql(f"MERGE INTO {self.location(of.name)} AS t USING {view} ON {expression} = _forgotten WHEN MATCHED THEN DELETE")
            self.spark.catalog.dropTempView(view)
        return self._newest_commit(of.name)[0]

    def vacuum(self, name: str, hours: float) -> None:
        """Erase the files that no version of the last `hours` needs; older versions can no longer be read."""
        # Delta lists the files in 10,000 tasks by default, most of them empty: on a laptop that is minutes for every table.
        settings = {"spark.sql.sources.parallelPartitionDiscovery.parallelism": self.spark.conf.get("spark.sql.shuffle.partitions")}
        if hours < SAFE_VACUUM_HOURS:
            settings["spark.databricks.delta.retentionDurationCheck.enabled"] = "false"
        for key, value in settings.items():
            self.spark.conf.set(key, value or "8")
        try:
            if self._property(name, "delta.enableDeletionVectors") == "true":
                self.spark.sql(f"REORG TABLE {self.location(name)} APPLY (PURGE)")
            self.spark.sql(f"VACUUM {self.location(name)} RETAIN {hours:g} HOURS")
        finally:
            for key in settings:
                self.spark.conf.unset(key)

    def _save(self, writer, name: str) -> None:  # type: ignore[no-untyped-def]
        if self.is_folder:
            writer.save(f"{self.root}/{name}")
        else:
            writer.saveAsTable(self.location(name))

    def _create(self, of: Table) -> None:
        columns = ", ".join(f"`{c.name}` {c.type}{' NOT NULL' if c.required else ''} COMMENT '{_quoted(c.doc)}'" for c in of.columns)
        parts = f" PARTITIONED BY ({', '.join(of.partitions)})" if of.partitions else ""
        self.spark.sql(
            f"CREATE TABLE IF NOT EXISTS {self.location(of.name)} ({columns}) USING DELTA{parts}"
            f" COMMENT '{_quoted(of.doc)}' TBLPROPERTIES ('{VERSION_PROPERTY}' = '{of.version}'{_statistics(of)})"
        )

    def _newest_commit(self, name: str) -> tuple[int, str]:
        row = self.spark.sql(f"DESCRIBE HISTORY {self.location(name)} LIMIT 1").first()
        assert row is not None
        return row["version"], row["userMetadata"] or ""

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

    def restore(self, name: str, version: int | None) -> None:
        """Make the table's current content that of the version; None empties it (it was never published)."""
        if not self.exists(name):
            return
        self._schema_versions.pop(name, None)  # the properties go back, too
        if version is None:
            self.spark.sql(f"DELETE FROM {self.location(name)}")
        else:
            self.spark.sql(f"RESTORE TABLE {self.location(name)} TO VERSION AS OF {version}")

    def _property(self, name: str, key: str) -> str | None:
        detail = self.spark.sql(f"DESCRIBE DETAIL {self.location(name)}").first()
        return detail["properties"].get(key) if detail else None

    def _schema_version(self, name: str) -> str | None:
        if name not in self._schema_versions:
            self._schema_versions[name] = self._property(name, VERSION_PROPERTY)
        return self._schema_versions[name]

    def _check_schema_version(self, name: str) -> None:
        """Older versions are read (a version only adds columns, which are null there); a newer or foreign one is refused."""
        found, expected = self._schema_version(name), table(name).version
        if found is None or not found.isdigit() or not 1 <= int(found) <= expected:
            raise LakeError(
                f"table '{name}' in lake {self.root} has schema version {found}, this code writes {expected}: rebuild it with "
                f"jobs/{PRODUCERS.get(name, 'pipeline')}.py in a new lake, or use the release that wrote it"
            )

    def _migrate(self, of: Table) -> None:
        """Mark a table of an older schema version as one of today's; the write that follows adds the columns (mergeSchema)."""
        if self._schema_version(of.name) != str(of.version):
            self._check_schema_version(of.name)
            self.spark.sql(f"ALTER TABLE {self.location(of.name)} SET TBLPROPERTIES ('{VERSION_PROPERTY}' = '{of.version}')")
            self._schema_versions[of.name] = str(of.version)


@contextmanager
def scratch_folder(scratch: str, name: str) -> Iterator[str]:
    """An empty folder below lake.scratch, for its owner only: yields its path, and deletes it however the block ends.

    Driver and executors must both reach it. What a killed job left under the same name is replaced, so two jobs at once need two
    names. Raises ConfigError on a path that is not one of the file system's.
    """
    path = _local(scratch, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    os.chmod(path, 0o700)
    try:
        yield path
    finally:
        # Tasks of a failed job may still be writing; that must not hide why it failed.
        shutil.rmtree(path, ignore_errors=True)
        if os.path.exists(path):
            logger.warning("could not delete all of %s: it holds what is known of users, delete it by hand", path)


@contextmanager
def resumable_folder(scratch: str, name: str, content: object) -> Iterator[str]:
    """A folder below lake.scratch that outlives a failure: the next attempt at the same content (its repr) finds what is there.

    For its owner only; deleted when the block ends well. Folders of the same name with other content are deleted at the start. Driver
    and executors must both reach it. Raises ConfigError on a path that is not one of the file system's.
    """
    path = Path(_local(scratch, f"{name}-{hashlib.sha256(repr(content).encode()).hexdigest()[:16]}"))
    for other in path.parent.glob(f"{name}-*"):
        if other != path:
            shutil.rmtree(other, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    yield str(path)
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        logger.warning("could not delete all of %s: it holds what is known of users, delete it by hand", path)


def _local(folder: str, name: str) -> str:
    scheme, colon, rest = folder.partition(":")
    if colon and scheme != "file":
        raise ConfigError(
            f"lake.scratch is {folder!r}; allowed: a path that driver and executors both reach, such as ./out/scratch, a shared mount, "
            "/dbfs/... or /Volumes/..."
        )
    return os.path.abspath(os.path.join(rest if colon else folder, name))


def _statistics(of: Table) -> str:
    """Of a table about users and of `runs`, of which columns the Delta log keeps the extreme values: none that could be a user."""
    skipping = [c.name for c in of.columns if c.type in ("TIMESTAMP", "DATE", "INT", "BIGINT", "DOUBLE") and c.name not in of.partitions]
    return f", 'delta.dataSkippingStatsColumns' = '{','.join(skipping)}'" if of.users or of is RUNS else ""


def _this_process() -> str:
    """Host, process id, and the second since when it runs: ids are given again, in a container at every start."""
    return f"{socket.gethostname()} {os.getpid()} {_began(os.getpid()):.0f}"


@functools.cache
def _began(pid: int) -> float:
    """The first answer stays, so that a process always calls itself the same."""
    return psutil.Process(pid).create_time()


def _is_alive(pid: int, since_s: int | None = None) -> bool:
    """Whether a process of this machine is there, and is the one that began then; rows of older versions do not say when."""
    hidden = False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, which the machine may not show
        hidden = True
    if not psutil.pid_exists(pid):  # and not hidden: the id of a thread, which can be signalled too
        return hidden
    try:
        return since_s is None or abs(psutil.Process(pid).create_time() - since_s) <= CLOCK_SLACK_S
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return False


def _completed(frame: DataFrame, of: Table) -> DataFrame:
    """The frame with the columns that a table of an older schema version lacks, as nulls."""
    lacking = [column for column in of.columns if column.name not in frame.columns]
    return frame.withColumns({column.name: F.lit(None).cast(column.type) for column in lacking}) if lacking else frame


PRODUCERS = {
    "events": "ingest_events", "ads": "ingest_events", "follows": "ingest_events", "quarantine": "ingest_events",
    "user_sequences": "build_sequences", "training_examples": "build_sequences", "vocabularies": "build_sequences",
    "ranking_examples": "log_embeddings",
    "user_embeddings": "embed_users", "user_clusters": "build_graph", "cluster_centroids": "build_graph",
    "user_edges": "build_graph", "ad_candidates": "retrieve_ads", "serving_candidates": "retrieve_ads",
    "evaluation_users": "evaluate",
}  # fmt: skip


def _quoted(text: str) -> str:
    return text.replace("'", "")

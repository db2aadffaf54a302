"""Delta tables under one root: made, written, restored and vacuumed, whatever runs say of them.

A root is a folder or a `catalog.schema`. Our tables carry the schema version of the release that wrote them as a table property;
what does not is somebody else's, and nothing is done to it: everything that changes a table looks first (`is_ours`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from ..config import LakeConfig
from ..errors import AlureError, LakeError
from ..paths import delta_table, is_url
from ..tables import RUNS, Table, table
from .damage import Damage, sentence

VERSION_PROPERTY = "alure.schema_version"
DELTA_PROPERTY = "delta.minReaderVersion"  # shown of every Delta table and of nothing else
ABSENT = re.compile(r"NOT_FOUND|DELTA_MISSING_DELTA_TABLE|doesn't exist|not exist|is not a Delta table")
NOT_A_TABLE = re.compile(r"EXPECT_TABLE_NOT_VIEW|ONLY_OPERATION|DELTA_UNSUPPORTED_OPERATION|UNSUPPORTED_VIEW")
# Operations that leave the rows as they are. After the first two a VACUUM erases the files of the version before.
UNCHANGED = ("OPTIMIZE", "REORG", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "COMPUTE STATS", "ANALYZE TABLE", "CLUSTER BY")
COMMIT = ("version", "userMetadata", "operation", "operationMetrics", "operationParameters")


class Store(Damage):
    """The Delta tables under one root."""

    def __init__(self, spark: SparkSession, config: LakeConfig) -> None:
        self.spark = spark
        self.is_folder = config.is_folder
        # Delta's SQL names folders by absolute path only.
        self.root = os.path.abspath(config.root) if self.is_folder and not is_url(config.root) else config.root.rstrip("/")
        self.config = config
        # Table -> its properties as looked up since the last refresh; None: there is no such table.
        self._properties: dict[str, dict[str, str] | None] = {}

    def location(self, name: str) -> str:
        """The table as SQL names it."""
        return delta_table(f"{self.root}/{name}") if self.is_folder else f"{self.root}.`{name}`"

    def is_ours(self, name: str, again: bool = True) -> bool:
        """Whether the table is there (published or not); again: look anew.

        Raises LakeError where something else stands in its place (a table, view, or files that no release of ours made), or a table of
        a newer release. A table of an older one is ours: a version only adds columns, which are null there.
        """
        if again or name not in self._properties:
            self._properties[name] = self._look_up(name)
        properties = self._properties[name]
        if properties is None:
            return False
        found, expected = properties.get(VERSION_PROPERTY), table(name).version
        if found is None:
            raise self._foreign(name, f"a table without the property {VERSION_PROPERTY}")
        if not found.isdigit() or not 1 <= int(found) <= expected:
            raise LakeError(
                f"table '{name}' in lake {self.root} has schema version {found}, this code writes {expected}: rebuild it with "
                f"jobs/{table(name).producer}.py in a new lake, or use the release that wrote it"
            )
        return True

    def _look_up(self, name: str) -> dict[str, str] | None:
        """The table's properties; None where there is nothing. Raises LakeError where something else is.

        They stand in the last commits that changed them: unlike DESCRIBE DETAIL, this puts no list of the table's files together.
        """
        try:
            with self.reading(name):
                rows = self.spark.sql(f"SHOW TBLPROPERTIES {self.location(name)}").collect()
        except AlureError:
            raise
        except Exception as error:
            if NOT_A_TABLE.search(str(error)):
                raise self._foreign(name, "a view, or a table that is not Delta's") from error
            if not ABSENT.search(str(error)):
                raise self._unusable(f"table '{name}' cannot be looked at there", error) from error
            if self.is_folder and self._holds_files(f"{self.root}/{name}"):
                raise self._foreign(name, "files that are no Delta table") from error
            return None
        properties = {row["key"]: row["value"] for row in rows}
        if DELTA_PROPERTY not in properties:
            raise self._foreign(name, "a view, or a table that is not Delta's")
        return properties

    def _holds_files(self, path: str) -> bool:
        if os.path.lexists(path) and (not os.path.isdir(path) or set(os.listdir(path)) - {"_delta_log"}):
            return True  # Spark does not see hidden files (.git, _SUCCESS), and Delta makes no table of ours beside them
        try:
            return not self.files(path).select("path").isEmpty()
        except Exception as error:
            if "PATH_NOT_FOUND" in str(error):
                return False
            raise

    def files(self, path: str) -> DataFrame:
        """Spark's table of the files below a folder (path, modificationTime, ...), but for hidden ones."""
        reader = self.spark.read.format("binaryFile").option("recursiveFileLookup", "true").option("__globPaths__", "false")
        return reader.load(path)

    def _foreign(self, name: str, what: str) -> LakeError:
        return LakeError(
            f"where table '{name}' of lake {self.root} belongs there is {what}, which alure_spark did not make; it is left as it is: give "
            "lake.root a folder or a schema of its own, or move that away"
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For the first thing that is written: what fails there becomes a LakeError about lake.root."""
        try:
            yield
        except Exception as error:
            if isinstance(error, AlureError):
                raise
            raise self._unusable("nothing can be written there", error) from error

    def _unusable(self, what: str, error: Exception) -> LakeError:
        return LakeError(
            f"lake.root is {self.config.root!r}, and {what} ({sentence(error)}); allowed: a folder that driver and executors may write, or "
            "a catalog.schema that is there or may be made"
        )

    def size(self, name: str) -> tuple[int, int]:
        """(files, bytes) of the table's current version."""
        detail = self.spark.sql(f"DESCRIBE DETAIL {self.location(name)}").first()
        assert detail is not None
        return detail["numFiles"], detail["sizeInBytes"]

    def commit(self, of: Table, frame: DataFrame, scope: str, run_id: str, append: bool) -> None:
        """Write the rows, in one Delta commit. Raises LakeError when columns are missing."""
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
        if extra:
            self._require_kinds(of, frame)
        writer = frame.write.format("delta").option("userMetadata", run_id).option("mergeSchema", "true")
        if append:
            writer = writer.mode("append")
        else:
            writer = writer.mode("overwrite")
            if scope != "true":
                writer = writer.option("replaceWhere", scope)
        self._save(writer.partitionBy(*of.partitions) if of.partitions else writer, of.name)
        if not append:
            self._purge(of.name)

    def _require_kinds(self, of: Table, frame: DataFrame) -> None:
        """Raises LakeError where a column of the frame has another type than in the table, which Delta would refuse half-way."""
        there = {field.name.casefold(): field for field in self._schema(of.name)}
        for field in frame.schema:
            found, made = there.get(field.name.casefold(), field).dataType.simpleString(), field.dataType.simpleString()
            if found != made and field.name not in of.column_names:
                raise LakeError(
                    f"column '{field.name}' of table '{of.name}' in lake {self.root} is {found}, and this run makes it "
                    f"{made} (the kind of the attribute in conf): give the attribute another name, the "
                    "kind that it had, or an empty lake.root"
                )

    def _schema(self, name: str) -> StructType:
        return self.spark.sql(f"SELECT * FROM {self.location(name)}").schema

    def delete(self, of: Table, users: DataFrame, run_id: str) -> None:
        """Delete the rows that name one of the users. One commit per expression of `of.users`."""
        self.is_ours(of.name)
        self._migrate(of)
        for expression in of.users:
            view = f"forgotten_{run_id}"
            users.select(F.col("user_id").alias("_forgotten")).distinct().createOrReplaceTempView(view)
            self.spark.sql(f"MERGE INTO {self.location(of.name)} AS t USING {view} ON {expression} = _forgotten WHEN MATCHED THEN DELETE")
            self.spark.catalog.dropTempView(view)
        self._purge(of.name)

    def _purge(self, name: str) -> None:
        """Write files anew of which rows are only marked as deleted, so that the version that is published needs none of the old ones."""
        properties = (self._properties[name] if self.is_ours(name, again=False) else None) or {}
        if "delta.feature.deletionVectors" in properties or properties.get("delta.enableDeletionVectors") == "true":
            self.spark.sql(f"REORG TABLE {self.location(name)} APPLY (PURGE)")

    def restore(self, name: str, version: int | None) -> None:
        """Make the table's current content that of the version; None empties it (it was never published)."""
        if not self.is_ours(name):
            return
        self._properties.pop(name, None)  # they go back, too
        if version is None:  # not only its rows: a column of the wrong type would stay for ever
            self._make(table(name), "REPLACE TABLE")
        else:
            with self.reading(name):
                self.spark.sql(f"RESTORE TABLE {self.location(name)} TO VERSION AS OF {version}")

    def _save(self, writer, name: str) -> None:  # type: ignore[no-untyped-def]
        if self.is_folder:
            writer.save(f"{self.root}/{name}")
        else:
            writer.saveAsTable(self.location(name))

    def _create(self, of: Table) -> None:
        if self.is_ours(of.name, again=of.name == RUNS.name):
            return
        if of is RUNS and not self.is_folder:  # nothing is written before
            with self.writing():
                self.spark.sql(f"CREATE SCHEMA IF NOT EXISTS {self.root}")
        self._make(of, "CREATE TABLE IF NOT EXISTS")

    def _make(self, of: Table, verb: str) -> None:
        columns = ", ".join(f"`{c.name}` {c.type}{' NOT NULL' if c.required else ''} COMMENT '{_quoted(c.doc)}'" for c in of.columns)
        parts = f" PARTITIONED BY ({', '.join(of.partitions)})" if of.partitions else ""
        self.spark.sql(
            f"{verb} {self.location(of.name)} ({columns}) USING DELTA{parts}"
            f" COMMENT '{_quoted(of.doc)}' TBLPROPERTIES ('{VERSION_PROPERTY}' = '{of.version}'{_as_sql(_settings(of))})"
        )
        self._properties.pop(of.name, None)

    def commits_since(self, name: str, version: int) -> list[Row]:
        """What COMMIT names of the commits after the version, the newest first.

        Without VACUUM's, which change nothing. Raises LakeError where the log has holes.
        """
        for limit in (" LIMIT 50", ""):  # a write makes a few
            with self.reading(name):
                history = self.spark.sql(f"DESCRIBE HISTORY {self.location(name)}{limit}")
                commits = history.select(*COMMIT).collect()
            if len(commits) < 50 or commits[-1]["version"] <= version:
                break
        since = [commit for commit in commits if commit["version"] > version]
        self._require_operations(name, since)
        return [commit for commit in since if not commit["operation"].startswith("VACUUM")]

    def newest_version(self, name: str) -> int:
        """The table's newest version, published or not. Raises LakeError where its log has holes."""
        with self.reading(name):
            commit = self.spark.sql(f"DESCRIBE HISTORY {self.location(name)} LIMIT 1").first()
        if commit is None:
            raise self.damaged(name, "has lost its newest commit")
        self._require_operations(name, [commit])
        return int(commit["version"])

    def _require_operations(self, name: str, commits: list[Row]) -> None:
        """Raises LakeError where a commit says nothing: its file is empty."""
        if empty := [commit["version"] for commit in commits if commit["operation"] is None]:
            raise self.damaged(name, f"has an empty commit, of version {max(empty)}")

    def _migrate(self, of: Table) -> None:
        """Make a table of an older schema version one of today's. The write that follows adds columns (mergeSchema); what is no longer
        required may be null.
        """
        self.is_ours(of.name, again=False)
        properties = self._properties[of.name]
        if properties is None:
            return
        lacks = any(key not in properties for key in _settings(of))  # a table of an earlier release
        if lacks or properties[VERSION_PROPERTY] != str(of.version):
            required = {column.name for column in of.columns if column.required}
            for field in self._schema(of.name):
                if not field.nullable and field.name not in required:
                    self.spark.sql(f"ALTER TABLE {self.location(of.name)} ALTER COLUMN `{field.name}` DROP NOT NULL")
            wanted = f"'{VERSION_PROPERTY}' = '{of.version}'{_as_sql(_settings(of))}"
            self.spark.sql(f"ALTER TABLE {self.location(of.name)} SET TBLPROPERTIES ({wanted})")
            self._properties.pop(of.name)


def completed(frame: DataFrame, of: Table) -> DataFrame:
    """The frame with the columns that a table of an older schema version lacks, as nulls."""
    lacking = [column for column in of.columns if column.name not in frame.columns]
    return frame.withColumns({column.name: F.lit(None).cast(column.type) for column in lacking}) if lacking else frame


def _settings(of: Table) -> dict[str, str]:
    """Properties of Delta that the table has."""
    settings = {}
    if of.users or of is RUNS:  # of which columns the log keeps the extreme values: none that could be a user
        skipping = [
            c.name for c in of.columns if c.type in ("TIMESTAMP", "DATE", "INT", "BIGINT", "DOUBLE") and c.name not in of.partitions
        ]
        settings["delta.dataSkippingStatsColumns"] = ",".join(skipping)
    if of is not RUNS:  # Delta would delete the commits of a version that is old, also while it is the published one
        settings["delta.enableExpiredLogCleanup"] = "false"
    return settings


def _as_sql(settings: Mapping[str, str]) -> str:
    return "".join(f", '{key}' = '{value}'" for key, value in settings.items())


def _quoted(text: str) -> str:
    return text.replace("'", "")

"""Delta tables under one root: made, written, restored and vacuumed, whatever runs say of them.

A root is a folder or a `catalog.schema`. Tables carry the schema version of the release that wrote them as a table property.
"""

from __future__ import annotations

import os
import re

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ..config import LakeConfig
from ..errors import LakeError
from ..tables import Table, table

VERSION_PROPERTY = "alure.schema_version"
SAFE_VACUUM_HOURS = 168  # Delta asks to confirm a shorter one: a reader of an older version would lose its files


class Store:
    """The Delta tables under one root."""

    def __init__(self, spark: SparkSession, config: LakeConfig) -> None:
        self.spark = spark
        self.is_folder = "/" in config.root or ":" in config.root
        # Delta's SQL names folders by absolute path only.
        self.root = os.path.abspath(config.root) if self.is_folder and ":" not in config.root else config.root.rstrip("/")
        self.config = config
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

    def size(self, name: str) -> tuple[int, int]:
        """(files, bytes) of the table's current version."""
        detail = self.spark.sql(f"DESCRIBE DETAIL {self.location(name)}").first()
        assert detail is not None
        return detail["numFiles"], detail["sizeInBytes"]

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

    def restore(self, name: str, version: int | None) -> None:
        """Make the table's current content that of the version; None empties it (it was never published)."""
        if not self.exists(name):
            return
        self._schema_versions.pop(name, None)  # the properties go back, too
        if version is None:
            self.spark.sql(f"DELETE FROM {self.location(name)}")
        else:
            self.spark.sql(f"RESTORE TABLE {self.location(name)} TO VERSION AS OF {version}")

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
                f"jobs/{table(name).producer}.py in a new lake, or use the release that wrote it"
            )

    def _migrate(self, of: Table) -> None:
        """Mark a table of an older schema version as one of today's; the write that follows adds the columns (mergeSchema)."""
        if self._schema_version(of.name) != str(of.version):
            self._check_schema_version(of.name)
            self.spark.sql(f"ALTER TABLE {self.location(of.name)} SET TBLPROPERTIES ('{VERSION_PROPERTY}' = '{of.version}')")
            self._schema_versions[of.name] = str(of.version)


def completed(frame: DataFrame, of: Table) -> DataFrame:
    """The frame with the columns that a table of an older schema version lacks, as nulls."""
    lacking = [column for column in of.columns if column.name not in frame.columns]
    return frame.withColumns({column.name: F.lit(None).cast(column.type) for column in lacking}) if lacking else frame


def _statistics(of: Table) -> str:
    """Of a table about users, which columns the Delta log keeps the smallest and largest value of: none that could be a user."""
    skipping = [c.name for c in of.columns if c.type in ("TIMESTAMP", "DATE", "INT", "BIGINT", "DOUBLE") and c.name not in of.partitions]
    return f", 'delta.dataSkippingStatsColumns' = '{','.join(skipping)}'" if of.users else ""


def _quoted(text: str) -> str:
    return text.replace("'", "")

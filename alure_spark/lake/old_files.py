"""Erases the files of a table that only its older versions need, and says where some are left."""

from __future__ import annotations

import math
import time
from urllib.parse import unquote

from pyspark.sql import functions as F

from ..clock import format_time
from ..errors import LakeError
from ..session import session_settings
from ..tables import RUNS
from .store import Store

SAFE_VACUUM_HOURS = 168  # Delta asks to confirm a shorter one: a reader of an older version would lose its files
RETENTION = "delta.deletedFileRetentionDuration"
MARGIN_S = 30  # a writer needs less from the file of its row to the commit


def vacuum(store: Store, name: str, hours: float) -> None:
    """Erase the files that no version of the last `hours` needs; older versions can no longer be read. Raises LakeError (_require_gone)."""
    store.is_ours(name)
    _vacuum(store, name, f" RETAIN {math.ceil(hours)} HOURS", hours < SAFE_VACUUM_HOURS)  # Delta would round 0.4 to 0
    # Without any hours to wait, every file that is left is one too many.
    _require_gone(store, name, _now_ms() if hours else 0)


def vacuum_runs(store: Store, hours: float) -> None:
    """Erase the files of `runs` that no version of the last `hours` needs: the ones that held messages which an erasure took out.

    Every job that waits for its turn writes a row there, so the files of the last MARGIN_S seconds stay; where the erasure wrote
    within them, this waits. Only inside a run. Raises LakeError (_require_gone).
    """
    if hours >= 1:
        _vacuum(store, RUNS.name, f" RETAIN {math.ceil(hours)} HOURS", hours < SAFE_VACUUM_HOURS)
    else:
        location, seconds = store.location(RUNS.name), max(MARGIN_S, math.ceil(hours * 3600))
        history = store.spark.sql(f"DESCRIBE HISTORY {location} LIMIT 50").where("operation IN ('UPDATE', 'REORG')")
        age = history.select(F.unix_millis(F.current_timestamp()) - F.unix_millis("timestamp")).orderBy(F.desc("version")).first()
        # Delta rounds RETAIN to whole hours, and half a minute to none; a property of the table is exact.
        wanted, detail = f"interval {seconds} seconds", store.spark.sql(f"DESCRIBE DETAIL {location}").first()
        if detail is None or detail["properties"].get(RETENTION) != wanted:
            store.spark.sql(f"ALTER TABLE {location} SET TBLPROPERTIES ('{RETENTION}' = '{wanted}')")
        if age is not None and hours * 3600 < MARGIN_S:
            time.sleep(min(MARGIN_S, max(0.0, MARGIN_S + 1 - age[0] / 1000)))
        _vacuum(store, RUNS.name, "", True)
    _require_gone(store, RUNS.name, _now_ms() + MARGIN_S * 1000)


def _vacuum(store: Store, name: str, retain: str, confirmed: bool) -> None:
    """VACUUM; retain: '' takes the table's own delta.deletedFileRetentionDuration; confirmed: it may be short."""
    partitions = store.spark.conf.get("spark.sql.shuffle.partitions") or ""
    settings = {
        # Delta lists the files in 10,000 tasks by default, most of them empty: on a laptop that is minutes for every table.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": partitions if partitions.isdigit() else "8",
        "spark.databricks.delta.vacuum.logging.enabled": "false",  # its commits would stand above the published version
    }
    if confirmed:
        settings["spark.databricks.delta.retentionDurationCheck.enabled"] = "false"
    with session_settings(store.spark, settings), store.reading(name):
        store.spark.sql(f"VACUUM {store.location(name)}{retain}")


def _require_gone(store: Store, name: str, since_ms: int) -> None:
    """Raises LakeError where files dated since then are left that the newest version does not need.

    VACUUM takes them for younger than any hours when the clock was set back, or that of a file server goes ahead.
    """
    path = f"{store.root}/{name}"
    if not store.is_folder:
        detail = store.spark.sql(f"DESCRIBE DETAIL {store.location(name)}").first()
        assert detail is not None
        path = detail["location"]
    dated = store.files(path).select("path", F.unix_millis("modificationTime").alias("at"))
    there = dated.where(F.col("at") >= since_ms).collect()
    needed = {unquote(path) for path in store.spark.sql(f"SELECT * FROM {store.location(name)}").inputFiles()} if there else set()
    if left := [row["at"] for row in there if unquote(row["path"]) not in needed]:
        raise LakeError(
            f"{len(left)} old files of table '{name}' in lake {store.root} stay, for they or the log that names them are dated after the "
            f"clock of this machine (the newest: {format_time(max(left))[:19]} UTC): set the clock, or run this again later"
        )


def _now_ms() -> int:
    return int(time.time() * 1000)

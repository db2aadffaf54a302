"""Whose turn it is to write to a lake, and what a writer is told of those before it.

One job writes at a time: its first act is a row `started` in `runs`. A job that erases files says so in its row `published`, and its
row `ended` follows; killed between the two it is published, and what it did not erase is left to its next run.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import Row
from pyspark.sql import functions as F

from ..clock import HOUR_MS, format_time
from ..errors import LakeError
from ..processes import is_alive, is_this
from ..tables import RUNS, TABLES

if TYPE_CHECKING:
    from .publishing import Lake

logger = logging.getLogger(__name__)
# Facts of an erasure: when rows went, from when on their files may go, and (of its row `ended`) the time before which nothing is left.
REMOVED_AT, OLD_FILES, ERASED_BEFORE = "removed_at", "old_files_until", "erased_before"
LEASE = {"lease": "until ended"}  # among the facts of a published row: the writer is at work until its row `ended`
OVER = "status IN ('failed', 'ended') OR (status = 'published' AND coalesce(facts['lease'], '') <> 'until ended')"
# Runs of this process that have not ended: one that could not even write that it failed (a full disk) must not stand in the way.
writing_here: set[str] = set()


@dataclass(frozen=True)
class Standing:
    """What `runs` says at one moment."""

    published: dict[str, int]  # table -> the newest version that a published run names
    at_work: list[Row]  # what the rows `started` say of runs that have not ended, by the clocks of their drivers the oldest first
    files: int  # over which the rows of its runs are spread


def standing(lake: Lake) -> Standing:
    """One read of `runs`, by one task: there are few rows, and a shuffle takes longer than all the rest."""
    begun = F.struct("run_id", "job", "message", "facts", F.unix_millis("started").alias("started_ms"))
    per_run = lake.runs(F.col("_metadata.file_name").alias("file")).coalesce(1).groupBy("run_id").agg(
        F.first(F.when(F.col("status") == "started", begun), ignorenulls=True).alias("begun"),
        F.max(F.expr(OVER)).alias("over"),
        F.first(F.when(F.col("status") == "published", F.col("outputs")), ignorenulls=True).alias("outputs"),
        F.max("file").alias("file"),
    )  # fmt: skip
    with lake.reading(RUNS.name):
        row = per_run.agg(
            F.struct(*(F.max(F.col("outputs")[name]).alias(name) for name in TABLES)).alias("published"),
            F.collect_list(F.when(~F.col("over"), F.col("begun"))).alias("at_work"),
            F.size(F.collect_set("file")).alias("files"),
        ).collect()[0]
    published = {name: version for name, version in row["published"].asDict().items() if version is not None}
    return Standing(published, sorted(row["at_work"], key=lambda one: one["started_ms"]), row["files"])


def take_turn(lake: Lake, run_id: str) -> Standing:
    """Return once no run that said `started` before this one is alive; before is the order of the commits, not of clocks."""
    deadline = time.monotonic() + 60 * lake.config.wait_minutes
    place: dict[str, int] = {}  # run -> its first commit, also when that has left the last 200
    while True:
        now = standing(lake)
        if [row["run_id"] for row in now.at_work] == [run_id]:
            return now
        commits = lake.spark.sql(f"DESCRIBE HISTORY {lake.location(RUNS.name)} LIMIT 200").select("userMetadata", "version").collect()
        for row in sorted(commits, key=lambda row: row["version"]):
            place.setdefault(row["userMetadata"], row["version"])
        others = [row for row in now.at_work if place.get(row["run_id"], -1) < place[run_id]]
        alive = [row for row in others if _lives(lake, row)]
        if not alive:
            _say_what_was_not_erased(lake, [row["run_id"] for row in others])
            return standing(lake)  # what has ended since may have published before
        if time.monotonic() >= deadline:
            first = alive[0]
            raise LakeError(
                f"{first['job']} (run {first['run_id']}, process {first['message']}) has been writing to lake {lake.root} since "
                f"{format_time(first['started_ms'])[:19]} UTC: wait for it (lake.wait_minutes), or, if it is dead, set "
                "lake.lease_hours=0"
            )
        time.sleep(1)


def killed_runs(lake: Lake) -> list[str]:
    """Ids of runs that have not ended and of which nobody is at work."""
    return [row["run_id"] for row in standing(lake).at_work if not _lives(lake, row)]


def _say_what_was_not_erased(lake: Lake, dead: list[str]) -> None:
    """Of writers that died: those that were published and had files to erase, unless their job has erased since."""
    if not dead:
        return
    started = F.unix_millis("started")
    waiting = lake.runs().where((F.col("status") == "published") & F.col("run_id").isin(dead)).groupBy("job").agg(F.max(started))
    erased = lake.runs().where("status = 'ended' AND message IS NULL").groupBy("job").agg(F.max(started)).collect()
    since = {row[0]: row[1] for row in erased}
    for job, when in waiting.collect():
        if since.get(job, 0) < when:
            logger.warning("%s was published and died before it had erased old files: run jobs/%s.py again", job, job)


def say_what_is_due(lake: Lake, job: str) -> None:
    """That old files which an erasure had to leave (lake.vacuum_hours) could go by now, unless its job has erased since."""
    if "tombstones" not in lake.published_versions():
        return
    facts = [F.col("facts")[key].alias(key) for key in (REMOVED_AT, OLD_FILES, ERASED_BEFORE)]
    rows = lake.runs().where(f"facts['{OLD_FILES}'] IS NOT NULL OR facts['{ERASED_BEFORE}'] IS NOT NULL").select("job", *facts).collect()
    now, due = format_time(int(time.time() * 1000)), dict[str, str]()
    for row in rows:
        erased = max(other[ERASED_BEFORE] or "" for other in rows if other["job"] == row["job"])
        if row[OLD_FILES] and row["job"] != job and erased < row[REMOVED_AT] and row[OLD_FILES] <= now:
            due[row["job"]] = min(row[OLD_FILES], due.get(row["job"], row[OLD_FILES]))
    for name, since in due.items():
        logger.warning("old files that name forgotten users may go since %s UTC: run jobs/%s.py --vacuum", since[:16], name)


def _lives(lake: Lake, writer: Row) -> bool:
    """Whether the writer may still be at work: where its process can be seen it is looked for, elsewhere its lease counts."""
    process, its = writer["message"], writer["facts"] or {}
    if is_this(process, its):
        return writer["run_id"] in writing_here
    alive = is_alive(process, its)
    return time.time() * 1000 - writer["started_ms"] < HOUR_MS * lake.config.lease_hours if alive is None else alive

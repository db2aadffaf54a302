"""Remove users from every table of the lake, for good: --users FILE (one id per line) or --user ID (repeatable).

Deletes their rows (history, examples, embeddings, both ends of edges and follows, candidates, quarantine), writes tombstones under
the key in ALURE_USER_KEY so that no later ingestion brings them back, vacuums by `lake.vacuum_hours`, and erases what jobs on this
lake left in lake.scratch. Says what remains: models that were trained with them, and the time-travel window.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark import run_messages
from alure_spark.config import LakeConfig
from alure_spark.errors import ConfigError
from alure_spark.events import identity
from alure_spark.lake import JobRun, timestamp
from alure_spark.lake.scratch import erase_workspace, left_by_earlier_releases
from alure_spark.tables import TABLES
from jobs.command import Context, Job, Report, argument_parser, guarded, run_options


def forget(context: Context, run: JobRun, users: Sequence[str]) -> Report:
    """users: ids as the source writes them. Raises ConfigError without a key or a user."""
    key, config = identity.user_key(os.environ), context.config
    if not users:
        raise ConfigError("nobody to forget: give --user ID or --users FILE")
    ids = context.spark.createDataFrame([(user,) for user in sorted(set(users))], "user_id string")
    if config.ingest.hash_user_ids:
        ids = ids.withColumn("user_id", identity.keyed_hash(F.col("user_id"), key))
    ids = ids.persist()
    published = context.lake.published_versions()
    tables = [name for name, of in TABLES.items() if of.users and name in published]
    deleted = {name: run.delete(name, ids) for name in tables}
    run.write("tombstones", _new_tombstones(run, ids, key, "tombstones" in published), append=True)
    named = ids.union(context.spark.createDataFrame([(user,) for user in users], "user_id string"))
    run_messages.forget(context.spark, context.lake.runs(), context.lake.location("runs"), named)
    ids.unpersist()
    rows = ", ".join(f"{name} {count:,}" for name, count in deleted.items() if count) or "none"
    models = context.tracker.model_versions(config.model_name)
    remains = [
        f"forgotten: {len(set(users)):,} users; rows deleted: {rows}",
        f"remains: versions of the last {config.lake.vacuum_hours:g} hours can still be read back (lake.vacuum_hours)"
        if config.lake.vacuum_hours
        else "remains: no earlier version of the tables",
        f"remains: {len(models)} model versions of {config.model_name} may have been trained with them ({', '.join(models) or 'none'})",
        *_unmarked(config.lake),
        "remains: candidates and graphs of other users, made with their help, until the next run; the source's own log",
    ]
    return Report({f"deleted.{name}": float(count) for name, count in deleted.items()}, texts={"forgotten.txt": "\n".join(remains)})


def erase(context: Context) -> None:
    """The files of old versions, also of tables that a killed job never published, and what killed jobs left in lake.scratch.

    What fails does not stop the rest; the first failure is raised at the end.
    """
    failures: list[Exception] = []

    def attempt(action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            failures.append(error)

    def vacuum(name: str) -> None:
        if context.lake.is_ours(name):
            context.lake.vacuum(name, context.config.lake.vacuum_hours)

    run_messages.erase(context.spark, context.lake.location("runs"), context.config.lake.vacuum_hours)

    for name, of in TABLES.items():
        if of.users:
            attempt(partial(vacuum, name))
    attempt(partial(erase_workspace, context.config.lake))
    if failures:
        raise failures[0]


def _unmarked(config: LakeConfig) -> list[str]:
    names = left_by_earlier_releases(config)
    what = f"{len(names)} files and folders in {config.scratch} that an earlier release may have left ({', '.join(names[:5])})"
    return [f"remains: {what}: look at them and delete them by hand"] if names else []


def _new_tombstones(run: JobRun, ids: DataFrame, key: bytes, published: bool) -> DataFrame:
    found = ids.select(identity.keyed_hash(F.col("user_id"), key).alias("user_hash"))
    if published:
        found = found.join(run.read("tombstones").select("user_hash"), "user_hash", "left_anti")
    return found.withColumn("forgotten_at", timestamp(int(time.time() * 1000)))


def job(users: Sequence[str]) -> Job:
    """The job that forgets these users."""
    return Job(
        "forget_users",
        "remove users from every table of the lake",
        tuple(name for name, of in TABLES.items() if of.users),
        ("tombstones",),
        lambda config: "true",
        lambda context, run: forget(context, run, users),
        after=erase,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--user", action="append", default=[], metavar="ID")
    parser.add_argument("--users", default="", metavar="FILE", help="one user id per line")

    def action(options) -> None:  # type: ignore[no-untyped-def]
        listed = Path(options.users).read_text().split("\n") if options.users else []
        run_options(options, [job([*options.user, *(line for line in listed if line)])], "forget_users")

    guarded(action, parser.parse_args(arguments))


if __name__ == "__main__":
    main()

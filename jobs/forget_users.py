"""Remove users from every table of the lake, for good: --users FILE (one id per line) or --user ID (repeatable).

Deletes their rows (history, examples, embeddings, both ends of edges and follows, candidates, quarantine), writes tombstones under
the key in ALURE_USER_KEY so that no later ingestion brings them back, vacuums by `lake.vacuum_hours`, and erases what jobs on this
lake left in lake.scratch. Says what remains: models that were trained with them, and until when old versions can be read back.
--vacuum, alone, erases the old files that could not go then; until it has run, every job warns.

An id is taken as it is written; if no row has it, without the blanks around it. Ids that name no row of any table are counted and named;
their tombstones are written, and the exit code is 0, with --strict 3. While MLflow does not answer, the tables are erased all the same
(exit code 0), and a warning says that the models are not known.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial, reduce
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark import run_messages
from alure_spark.clock import HOUR_MS, format_time
from alure_spark.config import IngestConfig, LakeConfig
from alure_spark.errors import ConfigError, LakeError, LeftoverError, TrackingError
from alure_spark.events import identity, user_list
from alure_spark.lake import OLD_FILES, REMOVED_AT, JobRun, timestamp
from alure_spark.lake.scratch import erase_workspace, left_by_earlier_releases, left_by_lakes_that_are_gone
from alure_spark.running import Context, Job, Report, argument_parser, guarded, run_options
from alure_spark.tables import TABLES
from jobs.ingest_events import user_key


def forget(context: Context, run: JobRun, users: Sequence[str], unmatched: list[str] | None = None) -> Report:
    """users: ids as the source writes them, or with blanks around them. Those that name no row of any table are added to `unmatched`.

    Their tombstones are written all the same: they may be in the log and not be loaded yet. Raises ConfigError without a user, without
    a key, or with another key than that of the lake.
    """
    user_list.require_ids(users)
    key, config = identity.user_key(os.environ), context.config
    user_key(context)
    published = context.lake.published_versions()
    tables = [name for name, of in TABLES.items() if of.users and name in published]
    in_lake = {user: [_id_in_lake(form, config.ingest, key) for form in user_list.forms(user)] for user in sorted(set(users))}
    known = _known(run, tables, _users(context, {one for ids in in_lake.values() for one in ids}))
    chosen = {user: [one for one in ids if one in known][:1] or ids for user, ids in in_lake.items()}
    missing = [user for user, ids in chosen.items() if not known.intersection(ids)]
    ids = _users(context, {one for ids in chosen.values() for one in ids}).persist()
    hashes = {identity.hashed(one, key): user for user, ids in chosen.items() for one in ids}
    before = _with_tombstones(run, hashes) if "tombstones" in published else set()
    check = _key_check(context, run, key, bool(before), bool(known))
    deleted = {name: run.delete(name, ids) for name in tables}
    named = ids.union(_users(context, {form for user in users for form in user_list.forms(user)}))
    run_messages.forget(context.spark, context.lake.runs(), context.lake.location("runs"), named)
    ids.unpersist()
    new = context.spark.createDataFrame([(one,) for one in sorted(hashes.keys() - before)], "user_hash string")
    now = int(time.time() * 1000)
    run.write("tombstones", new.withColumns({"forgotten_at": timestamp(now), "key_check": F.lit(check).cast("string")}), append=True)
    rows = ", ".join(f"{name} {count:,}" for name, count in deleted.items() if count) or "none"
    gone = len({one for ids in chosen.values() for one in ids if one in known})
    # No id here: MLflow keeps this text.
    remains = [
        f"forgotten: {gone:,} users; rows deleted: {rows}",
        *_said_of_missing(len(missing), len(chosen), len({hashes[one] for one in before}.intersection(missing))),
        _old_versions(run, now, config.lake.vacuum_hours),
        _models(context),
        *_unmarked(config.lake),
        "remains: candidates and graphs of other users, made with their help, until the next run; correlate_dwell's plots of three single "
        "users a run in MLflow, without ids; the source's own log",
    ]
    if unmatched is not None:
        unmatched += missing
    counts: dict[str, float | None] = {"users": gone, "unmatched": len(missing)}
    return Report(
        counts | {f"deleted.{name}": float(count) for name, count in deleted.items()}, texts={"forgotten.txt": "\n".join(remains)}
    )


def _key_check(context: Context, run: JobRun, key: bytes, before: bool, known: bool) -> str | None:
    """The check value to keep with new tombstones; None where a lake of an earlier release leaves open whether the key is its own.

    A mistyped key must not become the lake's: the right one would be refused from then on. before: one of the users has a tombstone
    under this key; known: one of the ids is in the lake. Raises ConfigError where the lake's ids are hashed and none of them is.
    """
    hash_user_ids, name = context.config.ingest.hash_user_ids, identity.KEY_VARIABLE
    published = context.lake.published_versions()
    old = run.read("tombstones").select("key_check").distinct().collect() if "tombstones" in published else []
    checked = any(row["key_check"] for row in old)
    if hash_user_ids and not checked:
        checked = not context.lake.runs().where("status = 'published' AND facts['user_ids'] IS NOT NULL").isEmpty()
    if hash_user_ids and not checked and "events" in published and not known and not before:
        raise ConfigError(
            f"none of the ids is in this lake under the key in {name}, and an earlier release kept no check value of the key: it may be "
            "another one. Nothing was written; name one user who is there"
        )
    proven = checked or not old or before or (hash_user_ids and known)
    return identity.key_check(key, hash_user_ids) if proven else None


def _id_in_lake(user: str, ingest: IngestConfig, key: bytes) -> str:
    return identity.hashed(user, key) if ingest.hash_user_ids else user


def _users(context: Context, ids: Collection[str]) -> DataFrame:
    return context.spark.createDataFrame([(one,) for one in sorted(ids)], "user_id string")


def _known(run: JobRun, tables: Sequence[str], ids: DataFrame) -> set[str]:
    """Those of the ids (user_id) that a row of one of the tables names."""
    named = [run.read(name).select(F.expr(user).alias("user_id")) for name in tables for user in TABLES[name].users]
    if not named:
        return set()
    return {row["user_id"] for row in reduce(DataFrame.union, named).join(ids, "user_id", "left_semi").distinct().collect()}


def _with_tombstones(run: JobRun, hashes: Collection[str]) -> set[str]:
    ours = run.lake.spark.createDataFrame([(one,) for one in sorted(hashes)], "user_hash string")
    return {row["user_hash"] for row in run.read("tombstones").join(ours, "user_hash", "left_semi").select("user_hash").collect()}


def _old_versions(run: JobRun, now_ms: int, hours: float) -> str:
    """What is said of the files that the vacuum of this run leaves; the facts of the run tell later ones from when on they may go."""
    if not hours:
        return "remains: no earlier version of the tables"
    until = format_time(now_ms + math.ceil(hours) * HOUR_MS)
    run.facts |= {REMOVED_AT: format_time(now_ms), OLD_FILES: until}
    return (
        f"remains: the rows as they were can be read back for {hours:g} hours (lake.vacuum_hours), and their files stay until "
        f"jobs/forget_users.py --vacuum runs after {until[:16]} UTC (with --set lake.vacuum_hours=0 at once)"
    )


def _said_of_missing(missing: int, asked: int, before: int) -> list[str]:
    again = f" ({before:,} had one before)" if before else ""
    what = f"{missing:,} of {asked:,} ids matched no row of any table; tombstones keep them out if they come later{again}"
    return [what] if missing else []


def _models(context: Context) -> str:
    """Which models may know the users; the erasure does not wait for an MLflow that does not answer."""
    name = context.config.model_name
    try:
        found = context.tracker.model_versions(name)
    except (TrackingError, ConfigError) as error:  # a name that Unity Catalog does not take
        why = " ".join(str(error).split())[:300]
        return (
            f"warning: which model versions of {name} may have been trained with them is unknown ({why}). The tables are done; left to "
            "do: once MLflow answers, look there, or run forget_users with the same ids again, which lists them"
        )
    return f"remains: {len(found)} model versions of {name} may have been trained with them ({', '.join(found) or 'none'})"


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

    for name, of in TABLES.items():
        if of.users:
            attempt(partial(vacuum, name))
    attempt(partial(context.lake.vacuum_runs, context.config.lake.vacuum_hours))
    attempt(partial(erase_workspace, context.config.lake))
    if failures:
        raise failures[0]


def _unmarked(config: LakeConfig) -> list[str]:
    found = {
        "that an earlier release may have left": left_by_earlier_releases(config),
        "of lakes that are not there any more, of this one perhaps before it was moved": left_by_lakes_that_are_gone(config),
    }
    return [
        f"remains: {len(names)} files and folders in {config.scratch} {whose} ({', '.join(names[:5])}): look at them, delete them by hand"
        for whose, names in found.items()
        if names
    ]


def job(users: Sequence[str], unmatched: list[str] | None = None) -> Job:
    """The job that forgets these users, and adds those that name no row to `unmatched`."""
    return Job(
        "forget_users",
        "remove users from every table of the lake",
        tuple(name for name, of in TABLES.items() if of.users),
        ("tombstones",),
        lambda config: "true",
        lambda context, run: forget(context, run, users, unmatched),
        after=erase,
    )


def _nothing_to_forget(context: Context, run: JobRun) -> Report:
    """The body of a run that only erases. Raises LakeError on a lake without tables: lake.root may be mistyped."""
    if not context.lake.published_versions():
        raise LakeError(f"lake {context.lake.root} has no published table, so there is nothing to erase: look at lake.root")
    hours = context.config.lake.vacuum_hours
    return Report(texts={"erased.txt": f"erased: files that no version of the last {hours:g} hours needs (lake.vacuum_hours)"})


ERASURE = Job(
    "forget_users",
    "erase the files of versions older than lake.vacuum_hours, and what jobs left in lake.scratch",
    (),
    (),
    lambda config: "true",
    _nothing_to_forget,
    after=erase,
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--user", action="append", default=[], metavar="ID")
    parser.add_argument("--users", default="", metavar="FILE", help="one user id per line, UTF-8")
    parser.add_argument("--vacuum", action="store_true", help="forget nobody; erase old files, by lake.vacuum_hours")
    parser.add_argument("--strict", action="store_true", help="exit with 3 where an id names no row; what the others name is erased")

    def action(options) -> None:  # type: ignore[no-untyped-def]
        if options.vacuum:
            if options.user or options.users:
                raise ConfigError("--vacuum forgets nobody: give it without --user and --users")
            run_options(options, [ERASURE], "forget_users")
            return
        users = [*options.user, *(user_list.read_ids(Path(options.users)) if options.users else [])]
        user_list.require_ids(users)
        unmatched: list[str] = []
        leftover: LeftoverError | None = None
        try:
            run_options(options, [job(users, unmatched)], "forget_users")
        except LeftoverError as error:  # published: the ids must be named now, for the next run finds none of them
            leftover = error
        if unmatched:
            named = ", ".join(map(repr, unmatched))  # all of them: a second run cannot tell them from those that were erased
            print(
                f"{'error' if options.strict else 'warning'}: {len(unmatched):,} of {len(set(users)):,} ids matched no row of any table: "
                f"{named}. An id must be as the log writes it, but for blanks around it; what the others name is erased",
                file=sys.stderr,
            )
            if options.strict and leftover is None:
                sys.exit(3)
        if leftover is not None:
            raise leftover

    guarded(action, parser.parse_args(arguments))


if __name__ == "__main__":
    main()

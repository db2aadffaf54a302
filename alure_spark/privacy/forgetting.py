"""Removes users from every table, for good: their rows go, and tombstones keep them out.

Enters: ids as the source writes them. Leaves: what was deleted and what remains, without an id, for MLflow keeps it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from .. import run_messages
from ..config import Config, IngestConfig
from ..errors import ConfigError, LakeError, TrackingError
from ..lake import JobRun, timestamp
from ..tables import TABLES
from ..tracking import Tracker
from . import identity, user_list
from .erasure import old_versions, unmarked
from .tombstones import check_value, lake_key, with_tombstone

USER_TABLES = tuple(name for name, of in TABLES.items() if of.users)


@dataclass(frozen=True)
class Forgotten:
    """What became of the users."""

    metrics: dict[str, float | None]
    text: str  # what was deleted and what remains, without an id
    unmatched: list[str]  # ids that name no row of any table


def forget(run: JobRun, config: Config, tracker: Tracker, users: Sequence[str]) -> Forgotten:
    """users: ids as the source writes them, or with blanks around them.

    Tombstones of ids that name no row are written all the same: they may be in the log and not be loaded yet. Raises ConfigError without
    a user, without a key, or with another key than that of the lake.
    """
    user_list.require_ids(users)
    key, lake, spark = identity.user_key(os.environ), run.lake, run.lake.spark
    lake_key(lake, config.ingest.hash_user_ids)
    published = lake.published_versions()
    tables = [name for name in USER_TABLES if name in published]
    in_lake = {user: [_id_in_lake(form, config.ingest, key) for form in user_list.forms(user)] for user in sorted(set(users))}
    known = _known(run, tables, _users(spark, {one for ids in in_lake.values() for one in ids}))
    chosen = {user: [one for one in ids if one in known][:1] or ids for user, ids in in_lake.items()}
    missing = [user for user, ids in chosen.items() if not known.intersection(ids)]
    ids = _users(spark, {one for ids in chosen.values() for one in ids}).persist()
    hashes = {identity.hashed(one, key): user for user, ids in chosen.items() for one in ids}
    before = with_tombstone(run, hashes) if "tombstones" in published else set()
    check = check_value(run, config.ingest.hash_user_ids, key, bool(before), bool(known))
    deleted = {name: run.delete(name, ids) for name in tables}
    named = ids.union(_users(spark, {form for user in users for form in user_list.forms(user)}))
    run_messages.forget(spark, lake.runs(), lake.location("runs"), named)
    ids.unpersist()
    new = spark.createDataFrame([(one,) for one in sorted(hashes.keys() - before)], "user_hash string")
    now = int(time.time() * 1000)
    run.write("tombstones", new.withColumns({"forgotten_at": timestamp(now), "key_check": F.lit(check).cast("string")}), append=True)
    rows = ", ".join(f"{name} {count:,}" for name, count in deleted.items() if count) or "none"
    gone = len({one for ids in chosen.values() for one in ids if one in known})
    # No id here: MLflow keeps this text.
    remains = [
        f"forgotten: {gone:,} users; rows deleted: {rows}",
        *_said_of_missing(len(missing), len(chosen), len({hashes[one] for one in before}.intersection(missing))),
        old_versions(run, now, config.lake.vacuum_hours),
        *(models(tracker, name) for name in _model_names(config)),
        "remains: what those models learnt lives on in models that go on from them (training.warm_start, ranking.warm_start) or "
        "have their interactions (ranking.upstream): train all of them once without to be rid of it",
        *unmarked(config.lake),
        "remains: candidates and graphs of other users, representations of ads and alignments, made with their help, until the next run; "
        "correlate_dwell's plots of three single users a run in MLflow, without ids; the source's own log; what a killed Spark left in "
        "spark.local.dir (/tmp/blockmgr-*, /tmp/spark-*)",
    ]
    counts: dict[str, float | None] = {"users": gone, "unmatched": len(missing)}
    return Forgotten(counts | {f"deleted.{name}": float(count) for name, count in deleted.items()}, "\n".join(remains), missing)


def _id_in_lake(user: str, ingest: IngestConfig, key: bytes) -> str:
    return identity.hashed(user, key) if ingest.hash_user_ids else user


def _users(spark: SparkSession, ids: Collection[str]) -> DataFrame:
    return spark.createDataFrame([(one,) for one in sorted(ids)], "user_id string")


def _known(run: JobRun, tables: Sequence[str], ids: DataFrame) -> set[str]:
    """Those of the ids (user_id) that a row of one of the tables names."""
    named = [run.read(name).select(F.expr(user).alias("user_id")) for name in tables for user in TABLES[name].users]
    if not named:
        return set()
    return {row["user_id"] for row in reduce(DataFrame.union, named).join(ids, "user_id", "left_semi").distinct().collect()}


def _said_of_missing(missing: int, asked: int, before: int) -> list[str]:
    again = f" ({before:,} had one before)" if before else ""
    what = f"{missing:,} of {asked:,} ids matched no row of any table; tombstones keep them out if they come later{again}"
    return [what] if missing else []


def _model_names(config: Config) -> list[str]:
    ranking = [config.ranking_name] if config.ranking.fields else []
    return [config.model_name, *ranking, *([config.retrieval_name] if config.transfer.retrieval.head else [])]


def models(tracker: Tracker, name: str) -> str:
    """Which versions of the model may know the users; the erasure does not wait for an MLflow that does not answer."""
    try:
        found = tracker.model_versions(name)
    except (TrackingError, ConfigError) as error:  # a name that Unity Catalog does not take
        why = " ".join(str(error).split())[:300]
        return (
            f"warning: which model versions of {name} may have been trained with them is unknown ({why}). The tables are done; left to "
            "do: once MLflow answers, look there, or run forget_users with the same ids again, which lists them"
        )
    return f"remains: {len(found)} model versions of {name} may have been trained with them ({', '.join(found) or 'none'})"


def nothing_to_forget(run: JobRun, hours: float) -> str:
    """What a run that only erases says. Raises LakeError on a lake without tables: lake.root may be mistyped."""
    if not run.lake.published_versions():
        raise LakeError(f"lake {run.lake.root} has no published table, so there is nothing to erase: look at lake.root")
    return f"erased: files that no version of the last {hours:g} hours needs (lake.vacuum_hours)"

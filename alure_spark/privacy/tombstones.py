"""What a lake keeps of its users' key and of forgotten users, and what that means for rows that come in."""

from __future__ import annotations

import os
from collections.abc import Collection

from pyspark.sql import DataFrame

from ..errors import ConfigError
from ..lake import JobRun, Lake
from . import identity


def lake_key(lake: Lake, hash_user_ids: bool) -> bytes:
    """The key that the lake's hashes and tombstones are made under; b'' where it has neither.

    Raises ConfigError where the environment has none or another, and where raw ids would stand beside hashed ones.
    """
    published = lake.published_versions()
    key = identity.user_key(os.environ) if hash_user_ids or "tombstones" in published else b""
    if published:
        identity.require_same_ids(lake.runs(), lake.read("events") if "events" in published else None, hash_user_ids, key)
    if "tombstones" in published:
        identity.require_same_key(lake.read("tombstones"), hash_user_ids, key)
    return key


def without_forgotten(lake: Lake, frame: DataFrame, *users: str) -> DataFrame:
    """The rows none of whose user columns names a user that the lake has forgotten."""
    if "tombstones" not in lake.published_versions():
        return frame
    return identity.without_forgotten(frame, users, lake.read("tombstones"), identity.user_key(os.environ))


def with_tombstone(run: JobRun, hashes: Collection[str]) -> set[str]:
    """Those of the hashes that have a tombstone already."""
    ours = run.lake.spark.createDataFrame([(one,) for one in sorted(hashes)], "user_hash string")
    return {row["user_hash"] for row in run.read("tombstones").join(ours, "user_hash", "left_semi").select("user_hash").collect()}


def check_value(run: JobRun, hash_user_ids: bool, key: bytes, before: bool, known: bool) -> str | None:
    """The check value to keep with new tombstones; None where a lake of an earlier release leaves open whether the key is its own.

    A mistyped key must not become the lake's: the right one would be refused from then on. before: one of the users has a tombstone
    under this key; known: one of the ids is in the lake. Raises ConfigError where the lake's ids are hashed and none of them is.
    """
    published = run.lake.published_versions()
    old = run.read("tombstones").select("key_check").distinct().collect() if "tombstones" in published else []
    checked = any(row["key_check"] for row in old)
    if hash_user_ids and not checked:
        checked = not run.lake.runs().where("status = 'published' AND facts['user_ids'] IS NOT NULL").isEmpty()
    if hash_user_ids and not checked and "events" in published and not known and not before:
        raise ConfigError(
            f"none of the ids is in this lake under the key in {identity.KEY_VARIABLE}, and an earlier release kept no check value of the "
            "key: it may be another one. Nothing was written; name one user who is there"
        )
    proven = checked or not old or before or (hash_user_ids and known)
    return identity.key_check(key, hash_user_ids) if proven else None

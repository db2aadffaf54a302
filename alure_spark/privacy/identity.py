"""Keyed hashes of user ids: pseudonyms at ingestion, and tombstones of forgotten users.

The key comes from the environment of the job and travels to the workers inside a pickled function: it is in no conf, no table, no
query plan and no tracking store. What a lake keeps is a check value of it, so that another key is refused: under another key, hashes
of one user would differ from day to day, and erased users would come back.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Iterable, Mapping

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..errors import ConfigError

logger = logging.getLogger(__name__)
KEY_VARIABLE = "ALURE_USER_KEY"
PLAIN = "as the source writes them"
HASH = "^[0-9a-f]{64}$"


def user_key(environment: Mapping[str, str]) -> bytes:
    """The key. Raises ConfigError where it is absent or shorter than 16 characters."""
    key = environment.get(KEY_VARIABLE, "")
    if len(key) < 16:
        raise ConfigError(f"the environment variable {KEY_VARIABLE} has {len(key)} characters; allowed: a secret of at least 16")
    return key.encode(errors="surrogateescape")


def hashed(user: str, key: bytes) -> str:
    """HMAC-SHA256 of one id, 64 hex digits: what `keyed_hash` gives."""
    return hmac.new(key, user.encode(), hashlib.sha256).hexdigest()


def ids_in_lake(written: Iterable[str], hash_user_ids: bool) -> set[str]:
    """Ids as the log writes them or as the lake does, as the lake does.

    Raises ConfigError where the lake's ids are hashed, and ids are given as the log writes them without the key.
    """
    ids = set(written)
    if hash_user_ids and (raw := {one for one in ids if not re.fullmatch(HASH, one)}):
        key = user_key(os.environ)
        ids |= {hashed(one, key) for one in raw}
    return ids


def key_check(key: bytes, hash_user_ids: bool) -> str:
    """16 hex digits that name the key without telling it, and whether tombstones under it are of hashed ids.

    An HMAC of a text that is no user id: it holds a byte of 0.
    """
    return hashed(f"check of the key\0{'hashed' if hash_user_ids else 'plain'} ids", key)[:16]


def ids_are(hash_user_ids: bool, key: bytes) -> str:
    """How a load writes user ids, for the facts of its run (user_ids)."""
    return f"hashed under the key of check value {key_check(key, True)}" if hash_user_ids else PLAIN


def require_same_ids(runs: DataFrame, events: DataFrame | None, hash_user_ids: bool, key: bytes) -> None:
    """Raises ConfigError unless this conf and key write user ids as the lake's loads did.

    runs: the table, whose published loads say it. Where all loads are of an earlier release, which did not, the ids of `events` (None:
    not published) tell whether they are hashes at all; that the key is the same cannot be known, and a warning says so.
    """
    said = runs.where("status = 'published'").select(F.col("facts")["user_ids"].alias("said")).where("said IS NOT NULL").distinct()
    found = [row["said"] for row in said.collect()]
    if not found and events is not None:
        plain = not events.where(~F.col("user_id").rlike(HASH)).isEmpty()
        if plain and hash_user_ids:
            found = [PLAIN]
        elif not plain:
            logger.warning(
                "every user id of this lake looks like a hash, and it was loaded by an earlier release, which did not keep a check value: "
                "that ingest.hash_user_ids and the key in %s are as they were then cannot be known. The next load keeps it",
                KEY_VARIABLE,
            )
    mine = ids_are(hash_user_ids, key)
    for other in found:
        if other == mine:
            continue
        if PLAIN in (other, mine):
            raise ConfigError(
                f"the user ids of this lake are {'raw' if other == PLAIN else 'hashed'}, but {_switch(hash_user_ids)}: a user would be "
                f"two, one under each id. Set it to {_word(not hash_user_ids)}, or load everything into another lake.root"
            )
        raise ConfigError(
            f"the user ids of this lake were hashed under another key than the one in {KEY_VARIABLE}: a user would be two, one under each "
            "hash. Set the key of its first load, or load everything into another lake.root"
        )


def require_same_key(tombstones: DataFrame, hash_user_ids: bool, key: bytes) -> None:
    """Raises ConfigError where the table `tombstones` was written under another key, or hashed ids where these are not (or the reverse).

    Tombstones of an earlier release have no check value; where all are such, a warning says that the key cannot be checked.
    """
    found = {row["key_check"] for row in tombstones.select("key_check").distinct().collect()}
    mine = key_check(key, hash_user_ids)
    other = found - {mine, None}
    again = "forget them again in another lake.root before anything is loaded there"
    if key_check(key, not hash_user_ids) in other:
        raise ConfigError(
            f"users of this lake were forgotten under the other setting, but {_switch(hash_user_ids)}: they would come back. Set it to "
            f"{_word(not hash_user_ids)}, or {again}"
        )
    if other:
        raise ConfigError(
            f"users of this lake were forgotten under another key than the one in {KEY_VARIABLE}: they would come back. Set the key of "
            f"that time; if it is lost, {again}"
        )
    if None in found and mine not in found:
        logger.warning(
            "the tombstones of this lake are of an earlier release, which did not keep a check value: that they were written under the key "
            "in %s cannot be known. forget_users keeps one as soon as it finds a tombstone under that key",
            KEY_VARIABLE,
        )


def _switch(hash_user_ids: bool) -> str:
    return f"ingest.hash_user_ids is {_word(hash_user_ids)}"


def _word(value: bool) -> str:
    return str(value).lower()


def keyed_hash(column: Column, key: bytes) -> Column:
    """HMAC-SHA256 of a string column, 64 hex digits; null and white space stay, and what is not UTF-8 is null (all are refused later)."""

    def of_batch(batch: pd.Series) -> pd.Series:
        return batch.map(lambda value: hashed(value, key) if value and value.strip() else value)

    return F.pandas_udf(of_batch, "string")(F.try_validate_utf8(column.cast("string")))  # type: ignore[call-overload,no-any-return]


def without_forgotten(frame: DataFrame, users: tuple[str, ...], tombstones: DataFrame, key: bytes) -> DataFrame:
    """The rows none of whose user columns names a user that the table `tombstones` holds."""
    gone = tombstones.select(F.col("user_hash").alias("_gone"))
    for name in users:
        hashed = frame.withColumn("_hash", keyed_hash(F.col(name), key))
        frame = hashed.join(gone, F.col("_hash") == F.col("_gone"), "left_anti").drop("_hash")
    return frame

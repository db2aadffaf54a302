"""Keyed hashes of user ids: pseudonyms at ingestion, and tombstones of forgotten users.

The key comes from the environment of the job and travels to the workers inside a pickled function: it is in no conf, no table, no
query plan and no tracking store.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..errors import ConfigError

KEY_VARIABLE = "ALURE_USER_KEY"


def user_key(environment: Mapping[str, str]) -> bytes:
    """The key. Raises ConfigError where it is absent or shorter than 16 characters."""
    key = environment.get(KEY_VARIABLE, "")
    if len(key) < 16:
        raise ConfigError(f"the environment variable {KEY_VARIABLE} has {len(key)} characters; allowed: a secret of at least 16")
    return key.encode()


def keyed_hash(column: Column, key: bytes) -> Column:
    """HMAC-SHA256 of a string column, 64 hex digits; null and white space stay, and what is not UTF-8 is null (all are refused later)."""

    def hashed(batch: pd.Series) -> pd.Series:
        return batch.map(lambda value: hmac.new(key, value.encode(), hashlib.sha256).hexdigest() if value and value.strip() else value)

    return F.pandas_udf(hashed, "string")(F.try_validate_utf8(column.cast("string")))  # type: ignore[call-overload,no-any-return]


def without_forgotten(frame: DataFrame, users: tuple[str, ...], tombstones: DataFrame, key: bytes) -> DataFrame:
    """The rows none of whose user columns names a user that the table `tombstones` holds."""
    gone = tombstones.select(F.col("user_hash").alias("_gone"))
    for name in users:
        hashed = frame.withColumn("_hash", keyed_hash(F.col(name), key))
        frame = hashed.join(gone, F.col("_hash") == F.col("_gone"), "left_anti").drop("_hash")
    return frame

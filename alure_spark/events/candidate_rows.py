"""Candidates in the shape in which the ranking model reads impressions: as if shown at as_of, with what is known of them then.

Enters: `ad_candidates` of one as_of, each user's latest sequences, what fields read beside them. Leaves: a row per user for
inference/candidate_scores.py.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..config import Config
from ..errors import ConfigError
from ..lake import timestamp
from .ranking_fields import FieldTables, field_value, ranking_rows, with_flights

WORTH = ("bid", "value")  # columns of ads that a response may be worth


def _shown_now(candidates: DataFrame, sequences: DataFrame, config: Config) -> DataFrame:
    """Candidates in the shape of TRAINING_EXAMPLES: shown at as_of, with raw ids in `ads` and `accounts` and the user's arrays.

    candidates: AD_CANDIDATES of as_of; sequences: each user's latest row. Raises ConfigError where a field reads an attribute of the
    impression for which ranking.serving has no value.
    """
    attributes, as_of = config.impression_attributes, config.time.as_of_ms
    columns = {}
    for name, one in config.ranking.fields.items():
        if one.origin != "impression" or one.name in ("ad_id", "account_id"):
            continue
        if one.name not in config.ranking.serving:
            raise ConfigError(
                f"ranking.fields.{name} reads impression.{one.name}, which a candidate does not have yet: say what it is scored with in "
                f"ranking.serving.{one.name}"
            )
        value = F.lit(config.ranking.serving[one.name])
        kind = attributes[one.name]
        typed = field_value(value, kind)
        columns[f"impression__{one.name}"] = F.transform("ads", lambda ad, typed=typed: typed)  # type: ignore[misc]
    shown = candidates.where(F.size("ad_id") > 0).select(
        "user_id", "country", F.lit("").alias("segment"), timestamp(as_of).alias("as_of"),
        F.col("ad_id").alias("ads"), F.col("account_id").alias("accounts"),
        F.transform("ad_id", lambda ad: F.lit(as_of)).alias("time_ms"),
        F.transform("ad_id", lambda ad: F.xxhash64(ad)).alias("ad_id"),
        F.transform("account_id", lambda account: F.xxhash64(account)).alias("account_id"),
    )  # fmt: skip
    arrays = [name for name in sequences.columns if "__" in name]
    shown = shown.withColumns(columns) if columns else shown
    return shown.join(sequences.select("user_id", *arrays), "user_id", "left")


def candidate_rows(candidates: DataFrame, sequences: DataFrame, tables: FieldTables, config: Config) -> DataFrame:
    """user_id, country, as_of, ads, accounts, `_bid` and `_value` where ranking.score names them, and all that the model reads.

    Embeddings of as_of itself are read, too: scores are published after them. Raises ConfigError as a field cannot be read of a candidate.
    """
    rows = ranking_rows(_shown_now(candidates, sequences, config), config.ranking, tables, publish_lag_ms=-1)
    worth = sorted({name for name in config.ranking.score.values() if name in WORTH})
    if not worth or tables.ads is None:
        return rows
    return with_flights(rows, tables.ads, {f"_{name}": F.coalesce(F.col(name), F.lit(0.0)) for name in worth})

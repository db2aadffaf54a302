"""Which segment a user was in at a moment (house rule 2): never one that was computed from what came later.

Enters: `user_segments`, whose rows hold from valid_from on, which is not before their as_of. Several runs a day overlap: the newest
one that holds at the moment counts. A user of whom no row holds is passive: nothing is known that speaks for spending more.
Segments of single surfaces are for the servers of those surfaces; a sequence is of all of them, so the segment over all counts here.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..config import ALL_SURFACES, PASSIVE, FeaturePolicy, StreamConfig
from .sequences import select_features


def segment_periods(user_segments: DataFrame) -> DataFrame:
    """One row per user: user_id, periods (array of from_ms, to_ms, as_of_ms, segment)."""
    period = F.struct(
        F.unix_millis("valid_from").alias("from_ms"),
        F.unix_millis("valid_to").alias("to_ms"),
        F.unix_millis("as_of").alias("as_of_ms"),
        "segment",
    )
    overall = user_segments.where(F.col("surface") == ALL_SURFACES)
    return overall.groupBy("user_id").agg(F.collect_list(period).alias("periods"))


def segment_at(periods: Column, moment: Column) -> Column:
    """The segment at the moment (epoch ms); both ends of a period as its row says: valid_from included, valid_to not."""
    holding = F.filter(periods, lambda period: (period["from_ms"] <= moment) & (moment < period["to_ms"]))
    newest = F.array_max(F.transform(holding, lambda period: F.struct(period["as_of_ms"], period["segment"])))
    return F.coalesce(newest["segment"], F.lit(PASSIVE))


def in_segments(rows: DataFrame, user_segments: DataFrame, moment_ms: int) -> DataFrame:
    """The rows (one per user) with the column `segment`: the user's at the moment."""
    joined = rows.join(segment_periods(user_segments), "user_id", "left")
    return joined.withColumn("segment", segment_at(F.col("periods"), F.lit(moment_ms))).drop("periods")


def by_segment(
    sequences: DataFrame,
    user_segments: DataFrame,
    policies: Mapping[str, FeaturePolicy],
    streams: Mapping[str, StreamConfig],
    as_of_ms: int,
) -> dict[str, DataFrame]:
    """Segment -> its users' sequences (one row per user), cut as its policy says; columns that it drops are not read from the table."""
    named = in_segments(sequences, user_segments, as_of_ms)
    return {
        segment: select_features(named.where(F.col("segment") == segment), policy.select(streams), as_of_ms)
        for segment, policy in policies.items()
    }

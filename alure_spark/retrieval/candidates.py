"""User-to-user retrieval (ALURE, section 4, Figure 7): ads through similar users.

Enters: user_edges, events, ads. Leaves: ad_candidates, one row per user with a neighbour. A candidate is (1) an ad that a
neighbour clicked or converted on, or (2) an active ad of an account that a neighbour engaged with.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from ..boundary import known_before
from ..config import DAY_MS, HOUR_MS, RetrievalConfig
from ..lake import UNITS, in_units
from ..tables import GRAPH_BITS


def engagements(events: DataFrame, weights: Mapping[str, float], target: str, config: RetrievalConfig, as_of_ms: int) -> DataFrame:
    """One row per user and target (item_id or account_id) engaged with before as_of: user_id, <target>, engagement.

    engagement = sum of weight(source) * 0.5 ** (age / half life); the strongest max_engagements_per_user stay, ties by id.
    """
    known = events.where(known_before(F.unix_millis("known_at"), as_of_ms)).where(
        F.col("source").isin(list(weights)) & F.col(target).isNotNull()
    )
    weight = F.lit(0.0)
    for source, value in weights.items():
        weight = F.when(F.col("source") == source, F.lit(float(value))).otherwise(weight)
    age_days = (F.lit(as_of_ms) - F.unix_millis("known_at")) / DAY_MS
    strength = in_units(weight * F.pow(F.lit(0.5), age_days / config.half_life_days))
    summed = known.groupBy("user_id", target).agg(F.sum(strength).alias("_units")).where("_units > 0")
    strongest = Window.partitionBy("user_id").orderBy(F.col("_units").desc(), target)
    ranked = summed.withColumn("_n", F.row_number().over(strongest)).where(F.col("_n") <= config.max_engagements_per_user)
    return ranked.select("user_id", target, (F.col("_units") / UNITS).alias("engagement"))


def active_ads(ads: DataFrame, as_of_ms: int) -> DataFrame:
    """Distinct ads with a flight that is running at as_of: ad_id, account_id (of the latest flight)."""
    running = (F.unix_millis("active_from") <= as_of_ms) & (F.col("active_to").isNull() | (F.unix_millis("active_to") > as_of_ms))
    return ads.where(running).groupBy("ad_id").agg(F.max_by("account_id", F.struct("active_from", "account_id")).alias("account_id"))


def ad_candidates(edges: DataFrame, events: DataFrame, ads: DataFrame | None, config: RetrievalConfig, as_of_ms: int) -> DataFrame:
    """One row per user with an edge, shaped as AD_CANDIDATES; arrays are empty where no neighbour leads to an ad.

    score = sum over neighbours of edge weight * engagement, over both kinds; edges of weight 0 or less lead nowhere. Left out: ads that
    the user met before as_of in a stream of event_weights or excluded_by, excluded_ads and excluded_accounts, and of those that one
    graph alone leads to what is beyond its quota. Best first, ties by ad_id, at most config.cap.
    """
    users = edges.select(F.col("src_user_id").alias("user_id"), "country").distinct()
    empty = F.array().cast("array<struct<_order:bigint,ad_id:string,account_id:string,graphs:int,neighbours:int,reason:string>>")
    if ads is None:
        listed = users.withColumn("c", empty)
    else:
        scored = _scored(edges, events, ads, config, as_of_ms)
        order = (-F.col("units")).alias("_order")
        candidate = F.struct(order, "ad_id", "account_id", "graphs", "neighbours", "reason")
        best = F.slice(F.sort_array(F.collect_list(candidate)), 1, config.cap).alias("c")
        listed = users.join(scored.groupBy("user_id").agg(best), "user_id", "left").withColumn("c", F.coalesce("c", empty))
    score = F.transform("c", lambda x: F.round(-x["_order"] / UNITS, 6))
    columns = [F.col("c")[name].alias(name) for name in ("ad_id", "account_id")]
    tail = [F.col("c")[name].alias(name) for name in ("graphs", "neighbours", "reason")]
    return listed.select("user_id", "country", F.timestamp_millis(F.lit(as_of_ms)).alias("as_of"), *columns, score.alias("score"), *tail)


def _scored(edges: DataFrame, events: DataFrame, ads: DataFrame, config: RetrievalConfig, as_of_ms: int) -> DataFrame:
    """user_id, ad_id, account_id, units, graphs, neighbours, reason: every active ad that a neighbour leads to, own history removed."""
    origins = F.coalesce("origins", F.lit(GRAPH_BITS["alure"])).alias("origins")  # rows of older versions do not say
    links = edges.where("weight > 0").select(
        F.col("src_user_id").alias("to_user_id"), F.col("dst_user_id").alias("user_id"), "weight", origins
    )
    running = active_ads(ads, as_of_ms)
    for column, excluded in (("ad_id", config.excluded_ads), ("account_id", config.excluded_accounts)):
        running = running.where(~F.col(column).isin(list(excluded))) if excluded else running

    def through(weights: Mapping[str, float], target: str) -> DataFrame:
        found = links.join(engagements(events, weights, target, config, as_of_ms), "user_id")
        units = in_units(F.col("weight") * F.col("engagement"))
        return found.groupBy(F.col("to_user_id").alias("user_id"), target).agg(
            F.sum(units).alias("units"), F.bit_or("origins").alias("graphs"), F.count("*").cast("int").alias("neighbours")
        )

    by_ad = (
        through(config.event_weights, "item_id").withColumnRenamed("item_id", "ad_id").join(running, "ad_id").withColumn("kind", F.lit(1))
    )
    # An account with more ads than the cap could fill every list alone: the first by hash are enough.
    per_account = Window.partitionBy("account_id").orderBy(F.xxhash64("ad_id"), "ad_id")
    few = running.withColumn("_n", F.row_number().over(per_account)).where(F.col("_n") <= config.cap).drop("_n")
    by_account = through(config.account_weights, "account_id").join(few, "account_id").withColumn("kind", F.lit(2))
    both = by_ad.unionByName(by_account).groupBy("user_id", "ad_id", "account_id")
    summed = both.agg(
        F.sum("units").alias("units"), F.bit_or("graphs").alias("graphs"), F.max("neighbours").alias("neighbours"),
        F.sum("kind").alias("kind"),
    )  # fmt: skip
    own = (
        engaged_ads(events, [*config.event_weights, *config.excluded_by])
        .where(known_before(F.unix_millis("known_at"), as_of_ms))
        .select("user_id", "ad_id")
        .distinct()
    )
    reason = F.element_at(F.array(*(F.lit(text) for text in ("ad", "account", "ad+account"))), F.col("kind").cast("int"))
    return _within_quota(summed.join(own, ["user_id", "ad_id"], "left_anti"), config).withColumn("reason", reason)


def _within_quota(scored: DataFrame, config: RetrievalConfig) -> DataFrame:
    if not config.quota:
        return scored
    best = Window.partitionBy("user_id", "graphs").orderBy(F.col("units").desc(), "ad_id")
    placed = scored.withColumn("_place", F.row_number().over(best))
    for graph, most in config.quota.items():
        placed = placed.where((F.col("graphs") != GRAPH_BITS[graph]) | (F.col("_place") <= most))
    return placed.drop("_place")


def engaged_ads(events: DataFrame, sources: list[str]) -> DataFrame:
    """user_id, ad_id, known_at of the events in which a user engaged with an ad."""
    return events.where(F.col("source").isin(sources)).select("user_id", F.col("item_id").alias("ad_id"), "known_at")


def serving_candidates(ad_candidates: DataFrame, hours: float) -> DataFrame:
    """ad_candidates of one as_of as key and value, shaped as SERVING_CANDIDATES; users without a candidate are left out."""
    value = F.to_json(F.struct("ad_id", "account_id", "score", "graphs", "neighbours", "reason"))
    expires = F.timestamp_millis(F.unix_millis("as_of") + int(hours * HOUR_MS))
    return ad_candidates.where(F.size("ad_id") > 0).select("user_id", "as_of", expires.alias("expires_at"), value.alias("candidates"))


def explode_candidates(ad_candidates: DataFrame) -> DataFrame:
    """One row per user and ad, with rank (1 = best): the view `ad_candidates_exploded`."""
    zipped = F.arrays_zip("ad_id", "account_id", "score", "graphs", "neighbours", "reason")
    rows = ad_candidates.select("user_id", "country", "as_of", F.posexplode(zipped).alias("_position", "c"))
    return rows.select("user_id", "country", "as_of", (F.col("_position") + 1).alias("rank"), "c.*")

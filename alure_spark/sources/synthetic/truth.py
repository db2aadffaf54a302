"""The truth of the synthetic world: why anybody clicks and converts. It lies beside the world and no stage reads it.

It answers p(click), p(conversion) and value for any user, ad and time, so that a retrieval policy can be evaluated by ads
that were never shown. The generator draws its clicks and conversions from `probabilities`, the function that `respond`
integrates: there is one law. For impression-level terms e (placement) and z (standardised log dwell):

    logit p_conversion = base_conversion + e + w z        w: the user's dwell slope, exactly the slope in log dwell / sigma
    logit p_browse     = base_click + e                   a click that leads nowhere
    p_click            = 1 - (1 - p_conversion) (1 - p_browse)     every conversion follows a click
"""

from __future__ import annotations

import math

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from .options import WorldOptions
from .population import (
    ATTRIBUTES,
    DAY_MS,
    HABIT_PEAK_HOUR,
    HOUR_MS,
    PER_IMPRESSION,
    ad_columns,
    attach,
    identifier,
    parsed,
    user_columns,
)

BASE_CONVERSION = -3.6
BASE_CLICK = -2.9
COMMUNITY_EFFECT = 1.2  # the ad's category belongs to the user's community
FAVOURITE_EFFECT = 0.6  # it is the user's favourite category
HABIT_EFFECT = 0.2  # amplitude over the local day, highest at the user's peak hour


def effect(options: WorldOptions, attribute: str, value: Column) -> Column:
    """Log-odds effect of value index 0 .. n-1 of an ad-impression attribute; mean 0 over equally likely values."""
    count, deviation = ATTRIBUTES[attribute]
    count = count or options.categories
    if not options.on("attribute_effects") or not deviation or count < 2:
        return F.lit(0.0)
    scale = deviation / math.sqrt((count**2 - 1) / 12)  # of 0 .. n-1, equally likely
    return (value - F.lit((count - 1) / 2)) * scale


def ad_age_bucket(ad: dict[str, Column], time_ms: Column) -> Column:
    """INT 0 .. 3: below 3, 7, 14 days since the flight began, or more (0 before it)."""
    age_days = (time_ms - ad["active_from_ms"]) / float(DAY_MS)
    return sum(((age_days >= bound).cast("int") for bound in (3, 7, 14)), start=F.lit(0))


def base_log_odds(options: WorldOptions, user: dict[str, Column], ad: dict[str, Column], time_ms: Column) -> Column:
    """What user, ad and time contribute to both log-odds, without the bases, placement and dwell."""
    total = user["propensity"] + ad["quality"]
    if options.on("community_interest"):
        total = total + COMMUNITY_EFFECT * (ad["community"] == user["community"]).cast("double")
        total = total + FAVOURITE_EFFECT * (ad["category"] == user["favourite"]).cast("double")
    if options.on("time_habits"):
        local_hour = (time_ms / HOUR_MS + user["utc_offset_minutes"] / 60) % 24
        total = total + HABIT_EFFECT * F.cos((local_hour - peak_hour(user)) * F.lit(math.pi / 12))
    for name in ATTRIBUTES:
        if name not in PER_IMPRESSION:
            total = total + effect(options, name, ad_age_bucket(ad, time_ms) if name == "ad_age_bucket" else ad[name])
    return total


def peak_hour(user: dict[str, Column]) -> Column:
    """Local hour at which the user is most likely to be here."""
    evening = F.lit(HABIT_PEAK_HOUR["evening"])
    return F.when(user["habit"] == F.lit("morning"), F.lit(HABIT_PEAK_HOUR["morning"])).otherwise(evening)


def probabilities(base: Column, placement: Column, slope: Column, dwell: Column) -> tuple[Column, Column]:
    """(p of a click without conversion, p of a conversion) of one impression: the law above."""

    def logistic(log_odds: Column) -> Column:
        return 1.0 / (1.0 + F.exp(-log_odds))

    return logistic(base + placement + BASE_CLICK), logistic(base + placement + slope * dwell + BASE_CONVERSION)


def respond(pairs: DataFrame, spark: SparkSession, options: WorldOptions) -> DataFrame:
    """The pairs with p_click, p_conversion, value and expected_value = bid p_click + value p_conversion.

    `pairs` has user_id, ad_id, time TIMESTAMP (of the impression); its rows and further columns are kept, and these four
    must not be among them. p_click and p_conversion are of one impression (a conversion needs no condition), marginal over
    dwell, position and surface as the generator draws them: Gauss-Hermite quadrature, 7 nodes for dwell times 3 for
    placement (its distribution is symmetric; the error is below 1 % of p). `value` is the mean value of a conversion.
    The flight is not asked for: the answer is what would happen if the ad were shown. An id that the world does not have
    gives nulls. Cost: some forty exponentials per pair, no shuffle.
    """
    del spark  # the answer follows from the ids; the session stays in the signature for truths that are tables
    frame = pairs.withColumns({"__user": parsed("u", F.col("user_id"), options.users), "__ad": parsed("a", F.col("ad_id"), options.ads)})
    frame, user = attach(frame, "__user_", user_columns(options, F.col("__user")))
    frame, ad = attach(frame, "__ad_", ad_columns(options, F.col("__ad")))
    frame = frame.withColumn("__base", base_log_odds(options, user, ad, F.unix_millis(F.col("time"))))
    placement_sd = math.hypot(*(ATTRIBUTES[name][1] for name in PER_IMPRESSION)) if options.on("attribute_effects") else 0.0
    p_click, p_conversion = F.lit(0.0), F.lit(0.0)
    for e, e_weight in _nodes(3 if placement_sd else 1):
        at_placement, p_browse = F.lit(0.0), F.lit(0.0)
        for z, z_weight in _nodes(7):
            p_browse, p_dwell = probabilities(F.col("__base"), F.lit(e * placement_sd), user["slope"], F.lit(z))
            at_placement = at_placement + z_weight * p_dwell
        p_conversion = p_conversion + e_weight * at_placement
        p_click = p_click + e_weight * (1.0 - (1.0 - at_placement) * (1.0 - p_browse))
    known = F.col("__user").isNotNull() & F.col("__ad").isNotNull()
    frame = frame.withColumns(
        {"p_click": F.when(known, p_click), "p_conversion": F.when(known, p_conversion), "value": F.when(known, ad["value"])}
    )
    expected = ad["bid"] * F.col("p_click") + F.col("value") * F.col("p_conversion")
    return frame.withColumn("expected_value", expected).select(*pairs.columns, "p_click", "p_conversion", "value", "expected_value")


def _nodes(count: int) -> list[tuple[float, float]]:
    """Nodes and weights of the mean under a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return list(zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True))


def truth_users(spark: SparkSession, options: WorldOptions) -> DataFrame:
    """One row per user: country, community, favourite category, habit, dwell slope, propensity, mean organic impressions."""
    frame, user = attach(spark.range(options.users), "_", user_columns(options, F.col("id")))
    return frame.select(
        identifier("u", F.col("id")).alias("user_id"),
        *(user[name].alias(name) for name in ("country", "community", "habit", "active", "propensity", "organic_mean")),
        user["utc_offset_minutes"].alias("utc_offset_minutes"),
        user["slope"].alias("dwell_slope"),
        F.concat(F.lit("cat"), user["favourite"].cast("string")).alias("favourite_category_id"),
    )


def truth_ads(spark: SparkSession, options: WorldOptions) -> DataFrame:
    """One row per ad: account, category, community that likes it, quality (log-odds), bid, value, flight, attributes as indices."""
    frame, ad = attach(spark.range(options.ads), "_", ad_columns(options, F.col("id")))
    attributes = [name for name in ATTRIBUTES if name in ad]
    return frame.select(
        identifier("a", F.col("id")).alias("ad_id"),
        identifier("b", ad["account"]).alias("account_id"),
        F.concat(F.lit("cat"), ad["category"].cast("string")).alias("category_id"),
        *(ad[name].alias(name) for name in ("community", "quality", "bid", "value", *attributes)),
        F.timestamp_millis(ad["active_from_ms"]).alias("active_from"),
        F.timestamp_millis(ad["active_to_ms"]).alias("active_to"),
    )

"""A world of ads and recommendations with known truth, made by Spark.

Nothing public has dwell, conversions, countries, follows and media in one log, and nobody knows the truth behind a log.
So this room makes one, of 10^3 to 10^7 users, whose every effect is planted, can be switched off, and must be found again.
Enters: WorldOptions. Leaves: the canonical `events`, `ads` and `follows` of tables.py, and, never for the pipeline's eyes,
the truth (truth.py). Every draw is a hash of (seed, purpose, ids, counter): the rows are the same for any number of partitions.

Set spark.sql.codegen.hugeMethodLimit to 8000 for large worlds: the JVM never compiles larger methods (35 s of CPU become 20).

Not in this world: sessions, interests that drift, ads that compete for a slot, follows that change what is seen.
"""

from __future__ import annotations

import math

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from ...tables import ADS, DERIVED_EVENT_COLUMNS, EVENTS, FOLLOWS, Table
from .options import WorldOptions
from .population import (
    ATTRIBUTES,
    DAY_MS,
    HOUR_MS,
    MEDIA_TYPES,
    POSITIONS,
    SURFACES,
    ad_columns,
    attach,
    identifier,
    index,
    media_embedding,
    member,
    normal,
    pick,
    semantic_ids,
    uniform,
    user_columns,
    words,
)
from .truth import ad_age_bucket, base_log_odds, effect, peak_hour, probabilities

__all__ = ["AD_SOURCES", "EXTRA_ATTRIBUTES", "ORGANIC_SOURCES", "WorldOptions", "canonical"]

ORGANIC_SOURCES = ("organic_impression", "page_impression", "comment")
AD_SOURCES = ("ad_impression", "ad_click", "conversion")
# Columns of `events` beyond the canonical ones; filled for ad impressions, semantic ids for organic impressions too.
EXTRA_ATTRIBUTES: dict[str, str] = {
    name: "numeric" if name == "creative_size" else "categorical" for name in ATTRIBUTES if name not in EVENTS.column_names
}
MEDIAN_DWELL_MS = 15_000
DWELL_SIGMA = 1.0  # of log dwell within a user: the z of the dwell law
PAGE_SHARE, COMMENT_SHARE = 0.2, 0.05  # of organic impressions
MAX_DELAY_MS = 2 * DAY_MS
MAX_FOLLOWS = 8  # times the mean


def canonical(spark: SparkSession, options: WorldOptions, partitions: int | None = None) -> tuple[DataFrame, DataFrame, DataFrame]:
    """(events, ads, follows) as in tables.py, before ingestion derives its columns; events carry EXTRA_ATTRIBUTES too.

    Events: one row per event, event_id unique; impressions lie within `days` days of `start` (ads up to a minute later), clicks
    seconds and conversions minutes to two days after. Ads: one row per ad. Follows: one row per (src, dst). All times are whole
    milliseconds. Lazy, narrow but for the de-duplication of follows; `partitions` only splits the work.
    """
    return _events(spark, options, partitions), _ads(spark, options), _follows(spark, options, partitions)


def _events(spark: SparkSession, options: WorldOptions, partitions: int | None) -> DataFrame:
    slots, user = _slots(spark, options, partitions)
    events = _organic(slots, user, options).unionByName(_sponsored(slots, user, options), allowMissingColumns=True)
    # items and ads are few beside events, so their media are made once and met in a broadcast join: no shuffle
    media = _item_media(spark, options).unionByName(_ads(spark, options).select(F.col("ad_id").alias("_medium"), "media_embedding"))
    events = events.join(media, "_medium", "left")
    delay = F.lit(None).cast("bigint")
    if options.on("arrival_delay"):
        key = F.xxhash64(F.col("event_id"))
        late = _delay(options, "arrival/late", 3 * HOUR_MS, 1.2, key)
        soon = F.floor(-2000.0 * F.log(uniform(options, "arrival/soon", key)))
        delay = F.when(uniform(options, "arrival", key) < 0.1, late).otherwise(soon)
    events = events.withColumns(
        {"event_time": F.timestamp_millis("_time_ms"), "arrival_time": F.timestamp_millis(F.col("_time_ms") + delay)}
    )
    return _shaped(events, EVENTS, EXTRA_ATTRIBUTES)


def _slots(spark: SparkSession, options: WorldOptions, partitions: int | None) -> tuple[DataFrame, dict[str, Column]]:
    """One row per user and slot `_n`, a moment at which the user looks at something; and the user's truth by name."""
    users = spark.range(0, options.users, 1, partitions)
    users, user = attach(users, "_user_", user_columns(options, F.col("id")))
    count = F.floor(user["organic_mean"] + uniform(options, "count", F.col("id"))).cast("int")
    users = users.withColumn("_count", count).where(F.col("_count") > 0)
    keys = (F.col("id"), F.col("_n"))

    def day(purpose: str) -> Column:
        return index(options.days, uniform(options, purpose, *keys))

    hour, local_day = 24.0 * uniform(options, "hour", *keys), day("day")
    if options.on("time_habits"):
        at_peak = F.pmod(peak_hour(user) + 2.5 * normal(options, "peak", *keys), F.lit(24.0))
        hour = F.when(uniform(options, "habitual", *keys) < 0.75, at_peak).otherwise(hour)
        # some of the working days are drawn again, which makes a day of the weekend about 1.45 times a working day
        weekend = F.pmod(local_day + options.start_weekday, F.lit(7)) >= 5
        kept = weekend | (uniform(options, "working day", *keys) < 0.6)
        local_day = F.when(kept, local_day).otherwise(day("second day"))
    local_ms = F.floor((local_day * 24 + hour) * float(HOUR_MS))
    since_start = F.pmod(local_ms - user["utc_offset_minutes"] * 60_000, F.lit(options.days * DAY_MS))  # wraps at the ends
    slots = users.withColumn("_n", F.explode(F.sequence(F.lit(1), F.col("_count")))).withColumns(
        {
            "_time_ms": options.start_ms + since_start,
            "user_id": identifier("u", F.col("id")),
            "country": user["country"],
            "utc_offset_minutes": user["utc_offset_minutes"],
        }
    )
    return slots, user


def _category(options: WorldOptions, user: dict[str, Column], purpose: str, share: float) -> Column:
    """A category: with that probability one of the user's community (most often the favourite), otherwise any."""
    keys = (F.col("id"), F.col("_n"))
    anything = index(options.categories, uniform(options, f"{purpose}/any category", *keys))
    if not options.on("community_interest"):
        return anything
    step = index(options.categories_per_community, F.pow(uniform(options, f"{purpose}/own category", *keys), F.lit(1.5)))
    own = F.pmod(user["favourite"] + options.communities * step, F.lit(options.categories))
    return F.when(uniform(options, f"{purpose}/interest", *keys) < share, own).otherwise(anything)


def _organic(slots: DataFrame, user: dict[str, Column], options: WorldOptions) -> DataFrame:
    """Per slot an organic impression, sometimes a visit to the account's page and a comment on the item."""
    keys = (F.col("id"), F.col("_n"))
    interest = options.on("community_interest") and options.on("organic_interest")
    slots = slots.withColumn("_category", _category(options, user, "organic", 0.7 if interest else 0.0))
    place = index(options.items_per_category, F.pow(uniform(options, "item", *keys), F.lit(2.0)))  # few items get most views
    slots = slots.withColumn("_item", F.col("_category") + options.categories * place)
    account = index(options.accounts_per_category, uniform(options, "item/account", F.col("_item")))
    # people stay longer with what they like
    liked = (F.pmod(F.col("_category"), F.lit(options.communities)) == user["community"]).cast("double")
    slots, code = attach(slots, "_code_", semantic_ids(options, "item", F.col("_item"), F.col("_category")))
    slots = slots.withColumns(
        {
            "_account": F.col("_category") + options.categories * account,
            "dwell_ms": _dwell_ms(options, normal(options, "organic/dwell", *keys), F.lit(0.4 if interest else 0.0) * liked),
            "_kinds": F.array_compact(
                F.array(
                    F.lit(0),
                    F.when(uniform(options, "page", *keys) < PAGE_SHARE, F.lit(1)),
                    F.when(uniform(options, "comment", *keys) < COMMENT_SHARE, F.lit(2)),
                )
            ),
        }
    )
    events = slots.withColumn("_kind", F.explode("_kinds"))
    media_type = index(len(MEDIA_TYPES), uniform(options, "item/media_type", F.col("_item")))
    impression, page, comment = (F.col("_kind") == kind for kind in range(3))
    return events.select(
        _event_id("o").alias("event_id"),
        *("user_id", "country", "utc_offset_minutes"),
        (F.col("_time_ms") + F.when(impression, F.lit(0)).otherwise(F.col("dwell_ms") + F.col("_kind"))).alias("_time_ms"),
        pick(ORGANIC_SOURCES, F.col("_kind")).alias("source"),
        F.when(page, identifier("b", F.col("_account"))).otherwise(identifier("i", F.col("_item"))).alias("item_id"),
        identifier("b", F.col("_account")).alias("account_id"),
        F.concat(F.lit("cat"), F.col("_category").cast("string")).alias("category_id"),
        pick(SURFACES, index(len(SURFACES), uniform(options, "organic/surface", *keys))).alias("surface"),
        F.when(impression, F.col("dwell_ms")).alias("dwell_ms"),
        F.when(impression, pick(MEDIA_TYPES, media_type)).alias("media_type"),
        F.when(impression, index(POSITIONS, uniform(options, "organic/position", *keys))).alias("position"),
        F.when(comment, words(options, "comment", F.col("_category"), *keys)).alias("text"),
        F.when(impression, identifier("i", F.col("_item"))).alias("_medium"),
        *(F.when(impression, _label(name, value)).alias(name) for name, value in code.items()),
    )


def _sponsored(slots: DataFrame, user: dict[str, Column], options: WorldOptions) -> DataFrame:
    """Per slot at most one ad impression, if the drawn ad is in flight, with the click and the conversion that follow it.

    The logging policy shows an ad of the user's community three times in ten and any ad otherwise, each ad of a category alike.
    """
    keys = (F.col("id"), F.col("_n"))
    slots = slots.where(uniform(options, "ad", *keys) < options.ads_per_organic)
    per_category = options.accounts_per_category * options.ads_per_account
    place = index(per_category, uniform(options, "which ad", *keys))
    # ads of category c are c, c + categories, c + 2 categories, ...: the account repeats after `accounts`
    slots = slots.withColumn("_ad", _category(options, user, "ad", 0.3) + options.categories * place)
    slots = slots.withColumn("_time_ms", F.col("_time_ms") + index(59_000, uniform(options, "ad/gap", *keys)) + 1000)
    slots, ad = attach(slots, "_ad_", ad_columns(options, F.col("_ad")))
    in_flight = (F.col("_time_ms") >= ad["active_from_ms"]) & (F.col("_time_ms") < F.coalesce(ad["active_to_ms"], F.lit(2**62)))
    slots = slots.where(in_flight).withColumns(
        {
            "_surface": index(len(SURFACES), uniform(options, "ad/surface", *keys)),
            "_position": index(POSITIONS, uniform(options, "ad/position", *keys)),
            "_z": normal(options, "ad/dwell", *keys),
            "_base": base_log_odds(options, user, ad, F.col("_time_ms")),
        }
    )
    placement = effect(options, "surface", F.col("_surface")) + effect(options, "position", F.col("_position"))
    p_browse, p_conversion = probabilities(F.col("_base"), placement, user["slope"], F.col("_z"))
    slots = slots.withColumn("_converts", uniform(options, "conversion", *keys) < p_conversion)
    clicks = F.col("_converts") | (uniform(options, "click", *keys) < p_browse)
    # kinds 0, 1, 2 = impression, click, conversion: an impression that converts also has the click
    last = clicks.cast("int") + F.col("_converts").cast("int")
    events = slots.withColumn("_kind", F.explode(F.sequence(F.lit(0), last)))
    impression, conversion = (F.col("_kind") == kind for kind in (0, 2))
    to_click = F.when(impression, F.lit(0)).otherwise(_delay(options, "click delay", 8000, 0.8, *keys))
    slow = _delay(options, "conversion delay", 600_000, 1.6, *keys) if options.on("conversion_delay") else F.lit(1000)
    attributes = {"ad_age_bucket": ad_age_bucket(ad, F.col("_time_ms")), **ad}
    spread = F.exp(0.3 * normal(options, "conversion/value", *keys) - 0.045)  # mean 1
    return events.select(
        _event_id("a").alias("event_id"),
        _event_id("a", F.lit(0)).alias("impression_id"),
        *("user_id", "country", "utc_offset_minutes"),
        (F.col("_time_ms") + to_click + F.when(conversion, slow).otherwise(F.lit(0))).alias("_time_ms"),
        pick(AD_SOURCES, F.col("_kind")).alias("source"),
        identifier("a", F.col("_ad")).alias("item_id"),
        identifier("b", ad["account"]).alias("account_id"),
        F.concat(F.lit("cat"), ad["category"].cast("string")).alias("category_id"),
        pick(SURFACES, F.col("_surface")).alias("surface"),
        F.when(impression, _dwell_ms(options, F.col("_z"), F.lit(0.0))).alias("dwell_ms"),
        F.when(conversion, F.round(ad["value"] * spread, 2)).alias("value"),
        F.when(impression, pick(MEDIA_TYPES, ad["media_type"])).alias("media_type"),
        F.when(impression, F.col("_position")).alias("position"),
        F.when(impression, identifier("a", F.col("_ad"))).alias("_medium"),
        *(F.when(impression, _label(name, attributes[name])).alias(name) for name in EXTRA_ATTRIBUTES),
    )


def _item_media(spark: SparkSession, options: WorldOptions) -> DataFrame:
    item = F.col("id")
    codes = semantic_ids(options, "item", item, F.pmod(item, F.lit(options.categories)))
    embedding = media_embedding(options, "item", item, codes)
    return spark.range(options.items).select(identifier("i", item).alias("_medium"), embedding.alias("media_embedding"))


def _ads(spark: SparkSession, options: WorldOptions) -> DataFrame:
    ads, ad = attach(spark.range(options.ads), "_", ad_columns(options, F.col("id")))
    ads = ads.select(
        identifier("a", F.col("id")).alias("ad_id"),
        identifier("b", ad["account"]).alias("account_id"),
        F.concat(F.lit("cat"), ad["category"].cast("string")).alias("category_id"),
        F.timestamp_millis(ad["active_from_ms"]).alias("active_from"),
        F.timestamp_millis(ad["active_to_ms"]).alias("active_to"),
        ad["bid"].alias("bid"),
        ad["value"].alias("value"),
        words(options, "title", ad["category"], F.col("id")).alias("title"),
        media_embedding(options, "ad", F.col("id"), ad).alias("media_embedding"),
    )
    return _shaped(ads, ADS, {})


def _follows(spark: SparkSession, options: WorldOptions, partitions: int | None) -> DataFrame:
    """Follows towards the user's community eight times in ten, three in ten of them to its hubs, three in ten returned."""
    user, n = F.col("id"), F.col("_n")
    wanted = F.least(F.exp(0.8 * normal(options, "follows", user) - 0.32), F.lit(float(MAX_FOLLOWS)))
    count = F.floor(float(options.follows_per_user) * wanted + uniform(options, "follows/count", user)).cast("int")
    users = spark.range(0, options.users, 1, partitions).withColumn("_count", count).where(F.col("_count") > 0)
    made = users.withColumn("_n", F.explode(F.sequence(F.lit(1), F.col("_count"))))
    blocks = math.ceil(options.users / options.communities)
    draw = uniform(options, "follow/whom", user, n)
    block = index(blocks, F.when(uniform(options, "follow/hub", user, n) < 0.3, F.pow(draw, F.lit(4.0))).otherwise(draw))
    community = index(options.communities, uniform(options, "follow/community", user, n))
    if options.on("follow_homophily"):
        own = user_columns(options, user)["community"]
        community = F.when(uniform(options, "follow/homophily", user, n) < 0.8, own).otherwise(community)
    since = F.floor(uniform(options, "follow/time", user, n) * F.lit(float((90 + options.days) * DAY_MS)))
    made = made.select(
        user.alias("_src"),
        member(options, community, block).alias("_dst"),
        (F.lit(options.start_ms - 90 * DAY_MS) + since).alias("_time_ms"),
        (uniform(options, "follow/returned", user, n) < 0.3).alias("_returned"),
        (1 + index(7 * DAY_MS, uniform(options, "follow/return time", user, n))).alias("_return_ms"),
    ).where((F.col("_dst") < options.users) & (F.col("_src") != F.col("_dst")))  # the last block may be short
    ends = F.array(
        F.struct(F.col("_src").alias("src"), F.col("_dst").alias("dst"), F.col("_time_ms").alias("ms")),
        F.when(
            F.col("_returned"),
            F.struct(F.col("_dst").alias("src"), F.col("_src").alias("dst"), (F.col("_time_ms") + F.col("_return_ms")).alias("ms")),
        ),
    )
    edges = made.select(F.explode(F.array_compact(ends)).alias("edge")).groupBy("edge.src", "edge.dst").agg(F.min("edge.ms").alias("ms"))
    follows = edges.select(
        identifier("u", F.col("src")).alias("src_user_id"),
        identifier("u", F.col("dst")).alias("dst_user_id"),
        F.timestamp_millis("ms").alias("event_time"),
    )
    return _shaped(follows, FOLLOWS, {})


def _event_id(letter: str, kind: Column | None = None) -> Column:
    """Own id of an event: stream, user, slot and kind, so that it is unique and says where it comes from."""
    return F.concat_ws("-", F.lit(letter), F.col("id"), F.col("_n"), F.col("_kind") if kind is None else kind)


def _label(attribute: str, value: Column) -> Column:
    """The value of an extra attribute as events hold it: STRING code, or DOUBLE."""
    if EXTRA_ATTRIBUTES[attribute] == "numeric":
        return (value + 1) * 120.0
    return F.concat(F.lit(f"{attribute}_"), value.cast("string"))


def _delay(options: WorldOptions, purpose: str, median_ms: int, sigma: float, *keys: Column) -> Column:
    """Lognormal delay, 1 ms to two days, BIGINT."""
    drawn = F.floor(float(median_ms) * F.exp(sigma * normal(options, purpose, *keys)))
    return F.greatest(F.lit(1).cast("bigint"), F.least(drawn, F.lit(MAX_DELAY_MS).cast("bigint")))


def _dwell_ms(options: WorldOptions, z: Column, shift: Column) -> Column:
    """Dwell of standardised log dwell z, about the user's own median (which varies by a third around MEDIAN_DWELL_MS)."""
    own = 0.3 * normal(options, "dwell", F.col("id"))
    return F.greatest(F.lit(1).cast("bigint"), F.floor(float(MEDIAN_DWELL_MS) * F.exp(own + shift + DWELL_SIGMA * z)))


def _shaped(frame: DataFrame, table: Table, extra: dict[str, str]) -> DataFrame:
    """The frame with the table's input columns in its order and types, then the extra ones."""
    derived = (*DERIVED_EVENT_COLUMNS, "ad_hash")
    columns = [column for column in table.columns if column.name not in derived]
    return frame.select(*(F.col(column.name).cast(column.type).alias(column.name) for column in columns), *extra)

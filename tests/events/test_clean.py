from __future__ import annotations

import json

import pytest
from pyspark.sql import functions as F

from alure_spark.clock import parse_time
from alure_spark.errors import DataError
from alure_spark.events.clean import accepted, refused, validate_ads, validate_events, validate_follows

EARLY, NOW = parse_time("2000-01-01"), parse_time("2020-01-01")
SCHEMA = (
    "event_id string, user_id string, country string, event_time string, arrival_time string, source string, item_id string, "
    "dwell_ms int, value double"
)
GOOD = ("e1", "u1", "GB", "2019-05-01 10:00:00", None, "purchase", "i1", 10, 1.0)
STRANGE = "it's \"an\" id/with\\all,\n\tof {it}\u0001? \u00e9\U0001f600 ' OR 1=1 --"


def validated(spark, rows, schema=SCHEMA, attributes=None):
    return validate_events(spark.createDataFrame(rows, schema), ["purchase", "ad_click"], attributes or {}, EARLY, NOW)


def but(**changes):
    names = [part.split()[0] for part in SCHEMA.split(", ")]
    return tuple(changes.get(name, value) for name, value in zip(names, GOOD, strict=True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": None}, "user_id is null or empty"),
        ({"user_id": ""}, "user_id is null or empty"),
        ({"event_time": "last tuesday"}, "event_time is missing or unparsable"),
        ({"event_time": None}, "event_time is missing or unparsable"),
        ({"event_time": "1815-06-18 11:00:00"}, "event_time is before 2000-01-01 00:00:00.000"),
        ({"event_time": "2020-01-01 00:00:00"}, "event_time or arrival_time is in the future"),
        ({"arrival_time": "2031-01-01 00:00:00"}, "event_time or arrival_time is in the future"),
        ({"arrival_time": "soon"}, "arrival_time is unparsable"),
        ({"source": None}, "source is null or empty"),
        ({"source": "purchases"}, "source is not declared in streams"),
        ({"item_id": None}, "item_id is null or empty"),
        ({"dwell_ms": -1}, "dwell_ms is negative"),
        ({"value": float("nan")}, "value is not finite"),
        ({"value": float("-inf")}, "value is not finite"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason_and_whole(spark, change, reason):
    result = validated(spark, [GOOD, but(event_id="bad", **change)])
    assert [row["event_id"] for row in accepted(result).collect()] == ["e1"]
    (row,) = refused(result).collect()
    assert row["reason"] == reason
    assert json.loads(row["row"])["event_id"] == "bad"
    for name, value in change.items():
        if isinstance(value, str):
            assert json.loads(row["row"])[name] == value, "the raw value, also where it could not be read"


def test_equal_events_collapse_and_one_id_with_two_contents_goes_to_quarantine(spark):
    rows = [
        GOOD,
        GOOD,
        but(value=2.0, arrival_time="2019-05-02 00:00:00"),
        but(event_id=None),
        but(event_id=None),
        but(event_id=None, item_id="i2"),
    ]
    result = validated(spark, rows)
    kept = accepted(result).select("event_id", "value", "item_id").collect()
    assert len(kept) == 3, "e1 once, and one row for each content without an id"
    assert len({row["event_id"] for row in kept}) == 3
    assert [row["reason"] for row in refused(result).collect()] == ["event_id has other content already"]


def test_of_two_contents_the_one_that_was_known_first_stays(spark):
    late = but(arrival_time="2019-06-01 00:00:00", value=9.0)
    for rows in ([GOOD, late], [late, GOOD]):
        assert [row["value"] for row in accepted(validated(spark, rows)).collect()] == [1.0]


def test_a_strange_id_survives_and_a_long_log_of_one_user_too(spark):
    many = spark.range(100_000).select(
        F.concat(F.lit("m"), "id").alias("event_id"), F.lit("busy").alias("user_id"),
        F.lit(None).cast("string").alias("country"),
        F.lit("2019-05-01 10:00:00").alias("event_time"), F.lit(None).cast("string").alias("arrival_time"),
        F.lit("purchase").alias("source"),
        F.col("id").cast("string").alias("item_id"), F.lit(1).alias("dwell_ms"), F.lit(1.0).alias("value"),
    )  # fmt: skip
    rows = spark.createDataFrame([but(user_id=STRANGE, item_id=STRANGE)], SCHEMA).union(many)
    result = accepted(validate_events(rows, ["purchase"], {}, EARLY, NOW))
    assert result.count() == 100_001
    assert result.where(F.col("user_id") == STRANGE).select("item_id").first()[0] == STRANGE
    assert result.where("user_id = 'busy'").select("country").distinct().collect()[0][0] == "unknown"


def test_nothing_is_lost_every_row_is_accepted_refused_or_a_copy(spark):
    rows = [
        GOOD,
        GOOD,
        but(user_id=None),
        but(event_id="e2"),
        but(event_id="e2", value=3.0, arrival_time="2019-05-02 00:00:00"),
        but(event_id="e3", event_time="x"),
    ]
    result = validated(spark, rows)
    copies = 1
    assert accepted(result).count() + refused(result).count() + copies == result.count() == len(rows)


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("user_id", None, "table 'events' lacks the column 'user_id'"),
        ("event_time", ("event_tme", "timestamp'2019-01-01'"), "lacks the column 'event_time'; did you mean 'event_tme'"),
        ("event_time", ("event_time", "1556704800"), "column 'event_time' has type int; allowed: timestamp"),
        ("user_id", ("user_id", "17850.0D"), "column 'user_id' has type double; allowed: string or an integer type"),
        ("dwell_ms", ("dwell_ms", "'10'"), "column 'dwell_ms' has type string; allowed: a numeric type"),
        ("value", ("media_embedding", "'a'"), "column 'media_embedding' has type string; allowed: an array of numbers"),
    ],
)
def test_a_missing_column_or_wrong_type_is_an_error_that_says_what_to_do(spark, drop, add, message):
    frame = spark.createDataFrame([GOOD], SCHEMA).drop(drop)
    if add:
        frame = frame.withColumn(add[0], F.expr(add[1]))
    with pytest.raises(DataError, match=message):
        validate_events(frame, ["purchase"], {}, EARLY, NOW)


def test_a_declared_attribute_must_be_there_and_is_typed(spark):
    frame = spark.createDataFrame([GOOD], SCHEMA).withColumn("brand", F.lit("b"))
    result = accepted(validate_events(frame, ["purchase"], {"brand": "categorical"}, EARLY, NOW))
    assert result.select("brand").first()[0] == "b"
    with pytest.raises(DataError, match="lacks the column 'brnd'; did you mean 'brand'"):
        validate_events(frame, ["purchase"], {"brnd": "categorical"}, EARLY, NOW)


def test_an_empty_frame_is_no_error_here(spark):
    result = validated(spark, [])
    assert accepted(result).count() == refused(result).count() == 0


def test_a_flight_of_which_one_row_has_a_blank_where_another_has_nothing_is_one(spark):
    rows = [("a", "x", "2019-01-01", category, media) for category in ("", " ", None) for media in ([], None)]
    ads = spark.createDataFrame(
        rows, "ad_id string, account_id string, active_from string, category_id string, media_embedding array<float>"
    )
    result = validate_ads(ads)
    assert [(row["category_id"], row["media_embedding"]) for row in accepted(result).collect()] == [(None, None)]
    assert refused(result).isEmpty()


def test_ads_and_follows_are_validated_too(spark):
    ads = spark.createDataFrame(
        [("a", "x", "2019-01-01", "2019-02-01"), ("a", "x", "2019-03-01", None), ("b", "x", "2019-02-01", "2019-01-01"),
         (None, "x", "2019-01-01", None), ("a", "y", "2019-01-01", "2019-02-01")],
        "ad_id string, account_id string, active_from string, active_to string",
    )  # fmt: skip
    result = validate_ads(ads)
    assert accepted(result).count() == 2, "two flights of one ad"
    assert sorted(row["reason"] for row in refused(result).collect()) == [
        "active_to is not after active_from", "ad_id and active_from have other content already", "ad_id is null or empty",
    ]  # fmt: skip
    follows = spark.createDataFrame(
        [("u", "v", "2019-01-02"), ("u", "v", "2019-01-01"), ("u", "u", "2019-01-01")],
        "src_user_id string, dst_user_id string, event_time string",
    )
    result = validate_follows(follows)
    assert [str(row["event_time"]) for row in accepted(result).collect()] == ["2019-01-01 00:00:00"]
    assert [row["reason"] for row in refused(result).collect()] == ["a user follows itself"]

"""What becomes of bad values, one row per kind; and that the page says the same."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from alure_spark.clock import parse_time
from alure_spark.config import IngestConfig
from alure_spark.errors import DataError
from alure_spark.events import reasons
from alure_spark.events.clean import accepted, refused, validate_ads, validate_events, validate_follows, validate_users
from alure_spark.events.preflight import describe, profile
from tests.conftest import ROOT

EARLY, NOW = parse_time("2000-01-01"), parse_time("2020-01-01")
KINDS = {"size": "numeric", "vector": "embedding", "topic": "categorical"}
SCHEMA = {
    "event_id": "string", "user_id": "string", "country": "string", "event_time": "string", "arrival_time": "string", "source": "string",
    "item_id": "string", "account_id": "string", "category_id": "string", "surface": "string", "impression_id": "string",
    "media_type": "string", "dwell_ms": "double", "value": "double", "position": "bigint", "utc_offset_minutes": "decimal(20,2)",
    "text": "string", "media_embedding": "array<double>", "size": "double", "vector": "array<float>", "topic": "string",
}  # fmt: skip
GOOD = {"user_id": "u1", "country": "GB", "event_time": "2019-05-01 10:00:00", "source": "view", "item_id": "i1", "topic": "t"}
BAD = [
    ({"user_id": "  "}, "user_id is null or empty"),
    ({"user_id": "\t\u00a0"}, "user_id is null or empty"),
    ({"source": ""}, "source is null or empty"),
    ({"source": "views"}, "source is not declared in streams"),
    ({"item_id": "\n"}, "item_id is null or empty"),
    ({"event_time": "2025-02-30"}, "event_time is missing or unparsable"),
    ({"event_time": "10:00"}, "event_time is missing or unparsable"),
    ({"event_time": "T10:00:00"}, "event_time is missing or unparsable"),
    ({"event_time": "1556704800"}, "event_time is missing or unparsable"),
    ({"event_time": "+999999-01-01"}, "event_time is missing or unparsable"),
    ({"event_time": "+294247-01-10 04:00:54"}, "event_time or arrival_time is in the future"),
    ({"event_time": "-4713-01-01"}, "event_time is before 2000-01-01 00:00:00.000"),
    ({"arrival_time": "2019-02-30"}, "arrival_time is unparsable"),
    ({"arrival_time": "2019-05-20"}, "arrived more than 2 days late"),
    ({"dwell_ms": 1e30}, "dwell_ms is beyond its type BIGINT"),
    ({"dwell_ms": float("-inf")}, "dwell_ms is beyond its type BIGINT"),
    ({"dwell_ms": -1.0}, "dwell_ms is negative"),
    ({"position": 3_000_000_000}, "position is beyond its type INT"),
    ({"utc_offset_minutes": Decimal(10**12)}, "utc_offset_minutes is beyond its type INT"),
    ({"value": 1.7976931348623157e308}, "value is beyond 3.4e38"),
    ({"value": float("inf")}, "value is not finite"),
    ({"size": -1.7976931348623157e308}, "size is beyond 3.4e38"),
    ({"size": float("nan")}, "size is not finite"),
    ({"media_embedding": [1.0, None]}, "media_embedding has NaN or null"),
    ({"media_embedding": [1.0, float("inf")]}, "media_embedding has infinity or a number beyond 1e12"),
    ({"media_embedding": [1.0, 1e308]}, "media_embedding has infinity or a number beyond 1e12"),
    ({"vector": [1.0, float("nan")]}, "vector has NaN or null"),
    ({"vector": [1.0, -1e30]}, "vector has infinity or a number beyond 1e12"),
    ({"vector": [1.0, 2.0, 3.0]}, "vector has not the 2 numbers of model.embedding_dimensions"),
    ({"event_id": "twice", "value": 1.0, "arrival_time": "2019-05-01 11:00:00"}, "event_id has other content already"),
    ({"event_id": "twice", "source": "click", "arrival_time": "2019-05-01 12"}, "event_id has other content already, in the stream view"),
]  # fmt: skip
BROKEN = ("event_id", "user_id", "country", "source", "item_id", "account_id", "impression_id")


def rows(spark, given, schema=SCHEMA, good=GOOD):
    """Each given dict over a good row, in one frame."""
    ddl = ", ".join(f"{name} {kind}" for name, kind in schema.items())
    return spark.createDataFrame([tuple((good | one).get(name) for name in schema) for one in given], ddl)


def validated(frame, ingest=None, **more):
    return validate_events(frame, ["view", "click"], KINDS, EARLY, NOW, ingest or IngestConfig(late_days=2), {"vector": 2} | more)


@pytest.fixture(scope="module")
def bad(spark):
    """`text` says which of BAD or BROKEN a row is."""
    given = [one | {"text": str(number)} for number, (one, _) in enumerate(BAD)]
    frame = rows(spark, [*given, {"event_id": "twice", "text": "first"}, *({"text": f"broken {name}"} for name in BROKEN)])
    for name in BROKEN:
        frame = frame.withColumn(name, F.when(F.col("text") == f"broken {name}", F.lit(b"a\xff\xfe").cast("string")).otherwise(F.col(name)))
    result = validated(frame).persist()
    assert [row["text"] for row in accepted(result).collect()] == ["first"]
    return {json.loads(row["row"])["text"]: row for row in refused(result).collect()}


def test_a_value_that_cannot_be_taken_is_a_reason_and_the_row_is_kept_as_it_was(bad):
    assert {text: row["reason"] for text, row in bad.items() if not text.startswith("broken")} == {
        str(number): reason for number, (_, reason) in enumerate(BAD)
    }
    for number, (given, reason) in enumerate(BAD):
        row = json.loads(bad[str(number)]["row"])
        for name, value in given.items():
            if isinstance(value, str) and "other content" not in reason:
                assert row[name] == value
    assert json.loads(bad[str(14)]["row"])["dwell_ms"] == 1e30


def test_bytes_that_are_no_text_are_refused_where_they_name_something_and_mended_elsewhere(spark, bad):
    assert {row["reason"] for text, row in bad.items() if text.startswith("broken")} == {f"{name} is not valid UTF-8" for name in BROKEN}
    frame = rows(spark, [{}]).withColumns({name: F.lit(b"a\xff").cast("string") for name in ("text", "surface", "topic")})
    (row,) = accepted(validated(frame)).collect()
    assert (row["text"], row["surface"], row["topic"]) == ("a\ufffd",) * 3


def test_white_space_alone_is_missing_in_every_column_that_names_something(spark):
    names = ("event_id", "account_id", "category_id", "surface", "impression_id", "media_type", "topic", "country")
    blanks = ["", "   ", "\t\r\n", "\u00a0"]
    frame = rows(spark, [dict.fromkeys(names, blank) | {"item_id": f"i{n}", "text": ""} for n, blank in enumerate(blanks)])
    found = accepted(validated(frame)).collect()
    assert len({row["event_id"] for row in found}) == len(blanks)
    for row in found:
        assert len(row["event_id"]) == 32
        assert [row[name] for name in names[1:-1]] == [None] * (len(names) - 2)
        assert (row["country"], row["text"]) == ("unknown", "")


def test_the_id_of_an_event_without_one_is_what_it_was_before_blanks_were_missing(spark):
    """A day that is ingested again after an upgrade must not be doubled."""
    frame = rows(spark, [{"category_id": ""}, {"category_id": None}]).select(*(list(SCHEMA)[:12]))
    ids = {row["event_id"] for row in accepted(validate_events(frame, ["view"], {}, EARLY, NOW)).collect()}
    assert len(ids) == 2


def test_numbers_that_cannot_be_true_become_null_and_are_counted_and_nan_is_missing(spark):
    given = [
        {"position": -1, "item_id": "a"}, {"utc_offset_minutes": Decimal(841), "item_id": "b"},
        {"utc_offset_minutes": Decimal(-99999), "item_id": "c"},
        {"dwell_ms": 9e18, "item_id": "d"}, {"dwell_ms": float("nan"), "item_id": "e"}, {"vector": [], "item_id": "f"},
        {"arrival_time": "0001-01-01", "item_id": "h"},
        {"position": 0, "utc_offset_minutes": Decimal(840), "dwell_ms": 10.0, "item_id": "g", "vector": [1.0, 2.0]},
    ]  # fmt: skip
    result = validated(rows(spark, given), IngestConfig(utc_offset_minutes={"GB": 60})).persist()
    found = {row["item_id"]: row for row in accepted(result).collect()}
    numbers = ("position", "utc_offset_minutes", "dwell_ms", "vector")
    assert {name: tuple(row[one] for one in numbers) for name, row in found.items()} == {
        "a": (None, 60, None, None), "b": (None, 60, None, None), "c": (None, 60, None, None), "d": (None, 60, None, None),
        "e": (None, 60, None, None), "f": (None, 60, None, None), "h": (None, 60, None, None), "g": (0, 840, 10, [1.0, 2.0]),
    }  # fmt: skip
    assert found["h"]["arrival_time"] is None
    profiles = profile(result)
    assert profiles["view"].nulled == {"position": 1, "utc_offset_minutes": 2, "dwell_ms": 1, "arrival_time": 1}
    assert "2 impossible utc_offset_minutes made null" in describe(profiles)[0]
    result.unpersist()


def test_dwell_and_local_time_are_filled_on_a_log_that_lacks_the_columns(spark):
    kinds = {"dwell_ms": "numeric", "utc_offset_minutes": "numeric"}
    given = [{"item_id": "a"}, {"item_id": "b", "event_time": "2019-05-01 10:00:09"}]
    frame = rows(spark, given).drop("dwell_ms", "utc_offset_minutes")
    ingest = IngestConfig(dwell_from_next=("view",), utc_offset_minutes={"GB": 60})
    found = {row["item_id"]: row for row in accepted(validate_events(frame, ["view"], kinds, EARLY, NOW, ingest)).collect()}
    assert [(found[name]["dwell_ms"], found[name]["utc_offset_minutes"]) for name in "ab"] == [(9000, 60), (None, 60)]


@pytest.mark.parametrize("user", ["\u3000", "\u200b", "\ufeff", "\x1f", "\x85", " \u2060\t", "a\0b"])
def test_ids_that_no_list_of_users_can_name_are_refused(spark, user):
    """Whoever is accepted can be erased: user_list takes them for blank lines, or for no text."""
    schema = "user_id string, source string, item_id string, event_time string"
    rows = spark.createDataFrame([(user, "view", "item", "2019-05-01")], schema)
    result = validate_events(rows, ["view"], {}, 0, NOW)
    assert [row["reason"] for row in refused(result).collect()] == [
        "user_id is not valid UTF-8" if "\0" in user else "user_id is null or empty"
    ]


def test_ads_with_times_that_are_none_or_from_no_year_are_refused(spark):
    good = {"ad_id": "a", "account_id": "x", "active_from": "2019-01-01"}
    schema = dict.fromkeys(("ad_id", "account_id", "active_from", "active_to", "category_id", "title"), "string")
    schema |= {"bid": "double", "value": "double", "media_embedding": "array<double>"}
    cases = [
        ({"ad_id": " "}, "ad_id is null or empty"),
        ({"account_id": ""}, "account_id is null or empty"),
        ({"active_from": "2025-02-30"}, "active_from is missing or unparsable"),
        ({"active_to": "2025-02-30"}, "active_to is unparsable"),
        ({"active_to": "2018-01-01"}, "active_to is not after active_from"),
        ({"active_from": "9999-01-01"}, "active_from is outside the years 1 to 2200"),
        ({"active_to": "+10000-01-01"}, "active_to is outside the years 1 to 9999"),
        ({"bid": float("inf")}, "bid is not finite"),
        ({"value": 1e300}, "value is beyond 3.4e38"),
        ({"media_embedding": [float("nan")]}, "media_embedding has NaN or null"),
        ({"media_embedding": [float("inf")]}, "media_embedding has infinity or a number beyond 1e12"),
        ({"ad_id": "twice", "bid": 2.0}, "ad_id and active_from have other content already"),
    ]
    fine = [
        {"ad_id": "twice", "bid": 1.0},
        {"ad_id": "open", "active_to": "9999-12-31", "category_id": " "},
        {"ad_id": "ever", "active_from": "0001-01-01"},
    ]
    frame = rows(spark, [*(one | {"title": str(n)} for n, (one, _) in enumerate(cases)), *fine], schema, good)
    frame = frame.union(rows(spark, [{"title": "broken"}], schema, good).withColumn("ad_id", F.lit(b"\xff").cast("string")))
    result = validate_ads(frame)
    found = refused(result).collect()
    # Of two flights that differ, which one stays is the order of their hashes.
    assert sorted(row["reason"] for row in found) == sorted([reason for _, reason in cases] + ["ad_id is not valid UTF-8"])
    kept = {row["ad_id"]: row for row in accepted(result).select("ad_id", "category_id").collect()}
    assert sorted(kept) == ["ever", "open", "twice"]
    assert kept["open"]["category_id"] is None


def test_follows_outside_the_bounds_of_events_are_refused(spark):
    schema = dict.fromkeys(("src_user_id", "dst_user_id", "event_time"), "string")
    cases = [
        ({"src_user_id": " "}, "a user id is null or empty"),
        ({"event_time": "soon"}, "event_time is missing or unparsable"),
        ({"event_time": "9999-12-31"}, "event_time is in the future"),
        ({"event_time": "0000-05-01"}, "event_time is outside the years 1 to 9999"),
        ({"dst_user_id": "u"}, "a user follows itself"),
    ]
    frame = rows(spark, [*(one for one, _ in cases), {}], schema, {"src_user_id": "u", "dst_user_id": "v", "event_time": "2019-01-01"})
    result = validate_follows(frame, NOW)
    assert sorted(row["reason"] for row in refused(result).collect()) == sorted(reason for _, reason in cases)
    assert accepted(result).count() == 1
    assert accepted(validate_follows(frame)).count() == 1, "pairs collapse: the earliest"


USERS = {"user_id": "string", "known_at": "string", "size": "double", "vector": "array<double>", "topic": "string", "note": "string"}
DECLARED = KINDS | {"note": "text"}


def test_what_is_declared_of_a_user_is_refused_where_it_cannot_be_read_and_kept_as_it_was(spark):
    cases = [
        ({"user_id": " "}, "user_id is null or empty"),
        ({"known_at": None}, "known_at is missing or unparsable"),
        ({"known_at": "10:00"}, "known_at is missing or unparsable"),
        ({"known_at": "2020-01-01"}, "known_at is in the future"),
        ({"known_at": "0000-05-01"}, "known_at is outside the years 1 to 9999"),
        ({"size": float("nan")}, "size is not finite"),
        ({"size": 1e300}, "size is beyond 3.4e38"),
        ({"vector": [1.0, None]}, "vector has NaN or null"),
        ({"vector": [1e20]}, "vector has infinity or a number beyond 1e12"),
    ]
    good = {"user_id": "u", "known_at": "2019-01-01", "topic": "t"}
    given = [one | {"note": str(number)} for number, (one, _) in enumerate(cases)]
    frame = rows(spark, [*given, {"note": "broken"}, {"topic": " ", "vector": [], "known_at": "1970-01-01"}], USERS, good)
    frame = frame.withColumn("user_id", F.when(F.col("note") == "broken", F.lit(b"\xff").cast("string")).otherwise(F.col("user_id")))
    result = validate_users(frame, DECLARED, NOW)
    found = {json.loads(row["row"])["note"]: row for row in refused(result).collect()}
    assert {note: row["reason"] for note, row in found.items()} == {
        **{str(number): reason for number, (_, reason) in enumerate(cases)}, "broken": "user_id is not valid UTF-8",
    }  # fmt: skip
    assert {row["source"] for row in found.values()} == {"users"}
    assert json.loads(found["2"]["row"])["known_at"] == "10:00"
    (row,) = accepted(result).collect()
    assert (row["user_id"], row["known_at"].year, row["topic"], row["vector"]) == ("u", 1970, None, None)
    with pytest.raises(DataError, match="table 'users' lacks the column 'sise'; did you mean 'size'"):
        validate_users(frame, DECLARED | {"sise": "numeric"}, NOW)


def test_of_two_declarations_at_one_time_the_same_one_stays_however_the_rows_come(spark):
    given = [{"topic": topic, "size": float(size)} for topic in "abc" for size in (1, 2, 1)]
    frame = rows(spark, given, USERS, {"user_id": "u", "known_at": "2019-01-01"})
    kept = set()
    for seed in range(5):
        result = validate_users(frame.repartition(3, F.rand(seed)), DECLARED, NOW)
        (stays,) = accepted(result).collect()
        others = refused(result).collect()
        assert {row["reason"] for row in others} == {"user_id and known_at have other content already"}
        assert len(others) == sum((one["topic"], one["size"]) != (stays["topic"], stays["size"]) for one in given)
        kept.add((stays["topic"], stays["size"]))
    assert len(kept) == 1


def test_every_reason_has_a_row_here_and_none_is_outside_the_table(bad):
    said = {row["reason"] for row in bad.values()} | OTHER_TABLES
    assert all(reasons.reason_of(text) for text in said)
    assert {reasons.reason_of(text).text for text in said} == {reason.text for reason in reasons.REASONS}


OTHER_TABLES = {  # which the tests of ads, follows and mapped impressions compare with
    "a user id is null or empty", "event_time is in the future", "a user follows itself", "active_to is not after active_from",
    "ad_id and active_from have other content already", "active_from is outside the years 1 to 2200",
    "known_at is in the future", "user_id and known_at have other content already",
    "the line is no JSON", "click is neither 0 nor 1", "split is none of train, validation, test", "weight is below 0 or not finite",
    "spent is no number of at least 0",
}  # fmt: skip


def test_the_page_is_what_the_table_of_reasons_says():
    text = (ROOT / "docs" / "bad-data.md").read_text()
    assert text == reasons.page(), "run: python -m alure_spark.events.reasons docs/bad-data.md"

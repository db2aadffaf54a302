"""Rows that come again: from quarantine under today's conf, or in a batch after an upgrade."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from alure_spark.clock import parse_time
from alure_spark.config import IngestConfig
from alure_spark.events import batches
from alure_spark.events.clean import accepted, refused, validate_events

EARLY, NOW = parse_time("2000-01-01"), parse_time("2020-01-01")
PLAIN = "event_id string, user_id string, event_time string, source string, item_id string, position int, media_embedding array<double>"
GOOD = ("e1", "u1", "2019-05-01T10:00:00Z", "view", "i1", None, None)


def validated(frame):
    return validate_events(frame, ["view"], {}, EARLY, NOW)


def quarantined(frame):
    return refused(validated(frame)).withColumn("run_id", F.lit("r"))


@pytest.mark.parametrize(
    ("kind", "to_id", "expected"),
    [
        ("bigint", "17", "17"),
        ("string", "'0017'", "0017"),
        ("binary", "CAST('abcd' AS BINARY)", "abcd"),
        ("bigint", "sha2('17', 256)", None),
    ],
)
def test_ids_in_quarantine_stay_what_they_are_whatever_type_the_source_has(spark, kind, to_id, expected):
    """Hashed at ingestion, bytes, or numbers: the id in quarantine is a text."""
    bad = spark.sql(f"SELECT {to_id} AS user_id, TIMESTAMP_NTZ'2019-05-01 10:00:00' AS event_time, 'other' AS source, 'i' AS item_id")
    shape = spark.createDataFrame([], f"user_id {kind}, event_time timestamp_ntz, source string, item_id string")
    held = quarantined(bad)
    assert "dTE=" not in held.first()["row"]
    again = validate_events(batches.from_quarantine(held, shape), ["other"], {}, EARLY, NOW)
    (row,) = accepted(again).collect()
    assert row["user_id"] == (expected or spark.sql(f"SELECT {to_id}").first()[0])
    assert row["event_time"].isoformat() == "2019-05-01T10:00:00"


def test_a_row_that_stays_refused_stays_as_it_is_so_that_a_batch_that_brings_it_again_finds_it(spark):
    frame = spark.sql(
        "SELECT 42 AS user_id, TIMESTAMP_NTZ'2019-05-01 10:00:00' AS event_time, 'other' AS source, 7 AS item_id, 0.5F AS value"
    )
    held = quarantined(frame)
    again = quarantined(batches.from_quarantine(held, frame))
    assert again.first()["row"] == held.first()["row"]
    assert batches.of_quarantine(quarantined(frame), again).isEmpty()


@pytest.mark.parametrize("name", ["text", "account_id", "country"])
def test_a_blank_and_nothing_are_one_content_in_one_load_as_in_two(spark, name):
    kind = PLAIN + f", {name} string"
    blank, nothing = ((*GOOD, value) for value in ("", None))
    one = validated(spark.createDataFrame([blank, nothing], kind))
    assert (accepted(one).count(), refused(one).count()) == (1, 0)
    assert accepted(one).first()[name] == ("unknown" if name == "country" else None)
    first, second = (accepted(validated(spark.createDataFrame([row], kind))).localCheckpoint() for row in (blank, nothing))
    for table, batch in ((first, second), (second, first)):
        assert batches.merge(table, batch, IngestConfig()).refused.isEmpty()


def test_bytes_that_are_no_text_are_refused_and_stay_so(spark):
    frame = spark.sql(
        "SELECT unhex(x) AS user_id, '2019-05-01' AS event_time, 'view' AS source, 'i' AS item_id "
        "FROM VALUES ('636166E9'), ('636166E8') AS t(x)"
    )
    held = quarantined(frame)
    assert {row["reason"] for row in held.collect()} == {"user_id is not valid UTF-8"}
    assert held.where(batches.is_broken()).count() == 2


def test_no_time_of_any_table_ends_a_load(spark):
    """DuckDB and Postgres write -infinity as the first of all microseconds."""
    frame = spark.range(1).selectExpr(
        "'u' AS user_id", "'view' AS source", "'i' AS item_id", "timestamp_micros(-9223372036854775807L) AS event_time"
    )
    assert accepted(validated(frame)).count() == 0
    assert refused(validated(frame)).count() == 1


def test_an_empty_text_for_a_time_is_a_missing_time(spark):
    frame = spark.createDataFrame([GOOD], PLAIN).withColumn("arrival_time", F.lit(" "))
    assert [row["arrival_time"] for row in accepted(validated(frame)).collect()] == [None]


def test_an_event_without_an_id_has_the_id_of_earlier_releases_also_with_an_empty_embedding(spark):
    """Else a day that is ingested again after an upgrade is there twice."""
    rows = [(None, *GOOD[1:6], []), (None, *GOOD[1:6], None)]
    found = accepted(validated(spark.createDataFrame(rows, PLAIN))).collect()
    assert len({row["event_id"] for row in found}) == 2, "as before: [] is other content than null"
    assert [row["media_embedding"] for row in found] == [None, None]


def test_a_row_of_an_earlier_release_is_no_conflict_when_it_comes_again(spark):
    """It holds what ingestion makes null today."""
    batch = accepted(validated(spark.createDataFrame([(*GOOD[:5], -1, [])], PLAIN))).localCheckpoint()
    table = batch.withColumns({"position": F.lit(-1), "media_embedding": F.array().cast("array<float>")}).localCheckpoint()
    change = batches.merge(table, batch, IngestConfig())
    assert (change.added.count(), change.refused.count()) == (0, 0)


def test_a_batch_that_comes_again_is_refused_once_whichever_stream_has_its_id_by_now(spark):
    kind = "source string, reason string, row string"
    old = [("events/click", "event_id has other content already", "{}")]
    new = [
        ("events/click", "event_id has other content already, in the stream view", "{}"),
        ("events/click", "item_id is null or empty", "{}"),
    ]
    found = batches.of_quarantine(spark.createDataFrame(new, kind), spark.createDataFrame(old, kind)).collect()
    assert [row["reason"] for row in found] == ["item_id is null or empty"]

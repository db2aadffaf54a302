"""Day by day = whole: any split of the days, late events and a backfill give the rows of one rebuild."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from alure_spark.config import IngestConfig
from alure_spark.events import batches
from alure_spark.events.clean import accepted, refused, validate_events
from alure_spark.events.sequences import select_features, touched_sequences, user_sequences
from alure_spark.lake import content_hash, latest_rows
from tests import oracle
from tests.events.logs import DAY, SCHEMA, START, STREAMS, frame, log, moment, world

END = START + 61


def current(table, as_of_ms):
    """What readers see at as_of."""
    return select_features(latest_rows(table, as_of_ms), STREAMS, as_of_ms).drop("as_of")


def stepwise(events, cuts):
    """The table after one run per cut, each from the rows of the runs before it."""
    table = user_sequences(events, STREAMS, cuts[0])
    for since, until in pairwise(cuts):
        table = table.unionByName(touched_sequences(events, table, STREAMS, since, until)).localCheckpoint()
    return table


@pytest.mark.slow
def test_any_split_of_the_time_gives_the_rows_of_one_rebuild(spark):
    events = frame(spark, world(oracle.cases_of(log, 150))).persist()
    draw = random.Random(7)
    for _ in range(3):
        cuts = [*sorted(draw.sample(range(START + 1, END), draw.randint(1, 4))), END]
        table = stepwise(events, cuts)
        for cut in cuts:
            whole = user_sequences(events, STREAMS, cut)
            assert content_hash(current(table, cut)) == content_hash(whole.drop("as_of")), (cuts, cut)
        touched = table.where(F.unix_millis("as_of") == cuts[-1]).select("user_id")
        moved = events.where((F.unix_millis("known_at") >= cuts[-2]) & (F.unix_millis("known_at") < END)).select("user_id").distinct()
        assertDataFrameEqual(touched, moved)  # rows exist only for touched users


def test_a_backfill_of_an_older_day_is_repaired_by_running_the_days_from_it_on(spark):
    logs = world(oracle.cases_of(log, 100))
    missed = [row for row in logs if 10 <= oracle.known_at(row) - START < 20]
    events = frame(spark, logs).persist()
    before = events.join(spark.createDataFrame([(row["event_id"],) for row in missed], "event_id string"), "event_id", "left_anti")
    cuts = [START + 10, START + 20, START + 40, END]
    table = stepwise(before, cuts)
    assert content_hash(current(table, END)) != content_hash(user_sequences(events, STREAMS, END).drop("as_of")), "the planted gap matters"
    for since, until in pairwise(cuts):
        redone = touched_sequences(events, table, STREAMS, since, until)
        table = table.where(F.unix_millis("as_of") != until).unionByName(redone).localCheckpoint()
    for cut in cuts:
        assert content_hash(current(table, cut)) == content_hash(user_sequences(events, STREAMS, cut).drop("as_of"))


SCHEMA = SCHEMA + ", dwell_ms int"
RAW = [part.split()[0] for part in SCHEMA.split(", ")]


def validated(spark, rows, ingest=IngestConfig(), others=None):  # noqa: B008
    given = [tuple(moment(row.get(name)) if name.endswith("_time") else row.get(name) for name in RAW) for row in rows]
    return validate_events(spark.createDataFrame(given, SCHEMA), list(STREAMS), {}, 0, START + 10 * DAY, ingest, None, others)


@pytest.mark.slow
def test_batches_in_any_order_with_repeats_end_in_the_table_of_the_whole_log(spark):
    rows = world(oracle.cases_of(log, 60))
    draw = random.Random(3)
    again = [dict(row, arrival_time=oracle.known_at(row) + draw.randint(0, 25)) for row in draw.sample(rows, 80)]  # delivered twice
    other = [dict(row, value=99.0, arrival_time=oracle.known_at(row) + draw.randint(0, 25)) for row in draw.sample(rows, 40)]
    every = rows + again + other
    whole = validated(spark, every)
    wanted = content_hash(accepted(whole))
    parts = [[row for row in every if low <= oracle.known_at(row) - START < high] for low, high in pairwise((0, 22, 44, 66, 999))]
    for order in ([0, 1, 2, 3], [2, 0, 1, 0, 3]):
        table, refused = None, 0
        for part in order:
            batch = accepted(validated(spark, parts[part]))
            if table is None:
                table = batch.localCheckpoint()
                continue
            change = batches.merge(table, batch, IngestConfig())
            refused += change.refused.count()
            kept = table.join(change.displaced.select("event_id"), "event_id", "left_anti")
            table = kept.unionByName(change.added).localCheckpoint()
        assert content_hash(table) == wanted, order
        assert refused > 0
    change = batches.merge(table, accepted(validated(spark, parts[1])), IngestConfig())
    assert change.added.count() == change.displaced.count() == 0, "a batch that comes again changes nothing"


def test_two_contents_known_at_one_moment_end_alike_in_one_load_in_two_and_from_quarantine(spark):
    """Else which of the two stays depends on how they came."""
    first = [impression(f"u{n}", n, value=1.0) for n in range(40)]
    second = [dict(row, value=2.0, item_id="b") for row in first]
    whole = validated(spark, first + second).localCheckpoint()
    wanted = content_hash(accepted(whole))
    table = accepted(validated(spark, first)).localCheckpoint()
    change = batches.merge(table, accepted(validated(spark, second)), IngestConfig())
    assert 0 < change.added.count() < 40, "the planted ties fall either way"
    kept = table.join(change.displaced.select("event_id"), "event_id", "left_anti")
    assert content_hash(kept.unionByName(change.added)) == wanted
    held = refused(whole).localCheckpoint()
    assertDataFrameEqual(change.refused, held)  # quarantine has one text for them
    again = validate_events(batches.from_quarantine(held, whole.select(*RAW)), list(STREAMS), {}, 0, START + 10 * DAY)
    replayed = batches.merge(accepted(whole), accepted(again), IngestConfig())
    assert replayed.added.isEmpty()
    assertDataFrameEqual(replayed.refused, held)


@pytest.mark.parametrize("swapped", [False, True])
def test_dwell_and_local_time_that_ingestion_changes_end_alike_too(spark, swapped):
    ingest = IngestConfig(dwell_min_ms=250, dwell_max_ms=1000, utc_offset_minutes={"X": 60})
    dwells = ((300, 400), (100, 5000), (100, 300), (300, None), (5000, 300))
    first = [impression(f"u{n}", n, dwell_ms=pair[0]) for n, pair in enumerate(dwells)]
    second = [dict(row, dwell_ms=pair[1]) for row, pair in zip(first, dwells, strict=True)]
    if swapped:
        first, second = second, first
    whole = validated(spark, first + second, ingest).localCheckpoint()
    table = accepted(validated(spark, first, ingest)).localCheckpoint()
    change = batches.merge(table, accepted(validated(spark, second, ingest)), ingest)
    kept = table.join(change.displaced.select("event_id"), "event_id", "left_anti").unionByName(change.added)
    assert content_hash(kept) == content_hash(accepted(whole))
    assert [json.loads(row["row"])["event_id"] for row in change.refused.collect()] == ["u0/0"]
    assertDataFrameEqual(change.refused, refused(whole))
    assert {row["utc_offset_minutes"] for row in kept.collect()} == {60}


def test_the_next_event_is_that_of_the_delivery_that_stays(spark):
    ingest = IngestConfig(dwell_from_next=("organic",), session_gap_minutes=1 / 60)
    rows = [impression("u", 0), impression("u", 100, event_id="twice"), impression("u", 900)]
    other = impression("u", 500, event_id="twice", item_id="b")
    whole = validated(spark, [*rows, other], ingest).localCheckpoint()
    wanted = {row["event_id"]: (row["dwell_ms"], row["known_at"]) for row in accepted(whole).collect()}
    table = accepted(validated(spark, rows[1:], ingest))
    replayed = validated(spark, [rows[0], other], ingest, table)
    change = batches.merge(table, accepted(replayed), ingest)
    assert [(row["event_id"], row["dwell_ms"], row["known_at"]) for row in change.added.collect()] == [("u/0", *wanted["u/0"])]
    assert wanted["u/0"][0] == 100
    assert [row["row"] for row in change.refused.collect()] == [row["row"] for row in refused(whole).collect()]


def test_an_event_that_is_replayed_finds_its_next_one_in_the_table(spark):
    ingest = IngestConfig(dwell_from_next=("organic",), session_gap_minutes=1 / 60)
    rows = [impression("u", 0), impression("v", 100), impression("u", 400), impression("u", 900)]
    wanted = {row["event_id"]: (row["dwell_ms"], row["known_at"]) for row in accepted(validated(spark, rows, ingest)).collect()}
    table = accepted(validated(spark, rows[2:], ingest))
    replayed = validated(spark, rows[:2], ingest, table)
    assert replayed.count() == 2
    found = {row["event_id"]: (row["dwell_ms"], row["known_at"]) for row in accepted(replayed).collect()}
    assert found == {name: wanted[name] for name in ("u/0", "v/100")}
    assert batches.merge(table, accepted(replayed), ingest).displaced.isEmpty()


def impression(user, at, **more):
    row = dict.fromkeys(RAW) | {"event_id": f"{user}/{at}", "user_id": user, "country": "X", "event_time": START + at,
                                "source": "organic", "item_id": "a"}  # fmt: skip
    return row | more


def test_dwell_is_the_gap_to_the_next_event_of_the_session_and_known_only_then(spark):
    ingest = IngestConfig(dwell_from_next=("organic",), session_gap_minutes=1 / 60)  # a second
    rows = [impression("u", 0), impression("u", 400), impression("u", 900, source="ad_click"), impression("u", 5000), impression("v", 100)]
    found = {
        (row["user_id"], row["at"]): (row["dwell_ms"], row["known"])
        for row in accepted(validated(spark, rows, ingest)).select(
            "user_id", (F.unix_millis("event_time") - START).alias("at"), "dwell_ms", (F.unix_millis("known_at") - START).alias("known")
        ).collect()
    }  # fmt: skip
    assert found == {
        ("u", 0): (400, 400), ("u", 400): (500, 900), ("u", 900): (None, 900), ("u", 5000): (None, 6000), ("v", 100): (None, 1100),
    }  # fmt: skip


def test_a_dwell_out_of_bounds_becomes_null_and_is_marked_and_late_rows_are_refused(spark):
    ingest = IngestConfig(dwell_min_ms=250, dwell_max_ms=1000, late_days=1)
    given = spark.createDataFrame(
        [("a", 249), ("b", 250), ("c", 1000), ("d", 1001), ("e", None), ("f", -5)], "event_id string, dwell_ms int"
    ).selectExpr("*", "'u' AS user_id", f"timestamp_millis({START}) AS event_time", "'organic' AS source", "'i' AS item_id")  # fmt: skip
    found = validate_events(given, list(STREAMS), {}, 0, START + 10 * DAY, ingest)
    rows = {row["event_id"]: row for row in found.collect()}
    assert {name: row["dwell_ms"] for name, row in rows.items() if row["reason"] is None} == {
        "a": None, "b": 250, "c": 1000, "d": None, "e": None,
    }  # fmt: skip
    assert [name for name, row in sorted(rows.items()) if row["_dwell_outlier"]] == ["a", "d"]
    assert rows["f"]["reason"] == "dwell_ms is negative"
    late = validated(spark, [impression("u", 0, arrival_time=START + DAY), impression("u", 1, arrival_time=START + DAY + 2)], ingest)
    assert sorted(row["reason"] or "" for row in late.collect()) == ["", "arrived more than 1 days late"]


def test_local_time_comes_from_the_country_where_the_event_has_none(spark):
    ingest = IngestConfig(utc_offset_minutes={"X": 60, "Y": -300})
    rows = [impression("u", 0), impression("u", 1, country="Y"), impression("u", 2, country="Z")]
    found = accepted(validated(spark, rows, ingest)).orderBy("event_time").select("utc_offset_minutes").collect()
    assert [row[0] for row in found] == [60, -300, None]

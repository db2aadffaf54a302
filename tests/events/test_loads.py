"""Loads that meet what an earlier load brought: ids that come again long after, and columns that the conf declared since."""

from __future__ import annotations

import json

import pytest

from alure_spark.clock import DAY_MS, parse_time
from alure_spark.config import IngestConfig
from alure_spark.events.clean import accepted, refused, validate_events
from alure_spark.events.ingestion import add_batch

FIRST = parse_time("2019-05-01")
EARLY, NOW = parse_time("2000-01-01"), parse_time("2020-01-01")
SCHEMA = "event_id string, user_id string, event_time timestamp, source string, item_id string"


class Run:
    """Of a job's run what `add_batch` asks for, on the rows of `events` alone."""

    def __init__(self, events):
        self.events, self.facts = events, {}

    def read(self, name):
        assert name == "events"
        return self.events

    def write(self, name, rows, scope):
        assert rows.where(f"NOT ({scope})").isEmpty(), "every row lies in the scope"
        self.events = self.events.where(f"NOT ({scope})").unionByName(rows, allowMissingColumns=True).localCheckpoint()
        return rows.count()


def given(spark, rows, *columns):
    """Rows (event_id, day, item, *columns), each of noon of its day; ending in DDL of the further columns."""
    ddl = ", ".join((SCHEMA.replace("event_time timestamp", "day int"), *columns))
    frame = spark.createDataFrame([(name, "u", day, "view", item, *more) for name, day, item, *more in rows], ddl)
    return frame.selectExpr("*", f"timestamp_millis({FIRST} + (day * 24 + 12) * 3600000) AS event_time").drop("day")


def ingested(spark, loads, ingest=IngestConfig()):  # noqa: B008
    """The events after loads of (frame, day, attributes), and all refused rows as (reason, event_id, item_id)."""
    run, all_refused = Run(None), []
    for frame, day, attributes in loads:
        validated = validate_events(frame, ["view"], attributes, EARLY, NOW, ingest)
        run.events = accepted(validated).where("false") if run.events is None else run.events
        start = FIRST + day * DAY_MS
        _, more = add_batch(run, validated, (start, start + DAY_MS), ingest)
        all_refused += [(row["reason"], json.loads(row["row"])) for row in refused(validated).drop("run_id").union(more).collect()]
    return run.events, sorted((reason, row["event_id"], row["item_id"]) for reason, row in all_refused)


@pytest.mark.parametrize("days", [(0, 9), (9, 0)])
def test_an_id_that_comes_again_long_after_late_days_is_refused_whichever_load_comes_first(spark, days):
    """The two are further apart than deliveries of one event can be: an id that is given twice."""
    loads = [(given(spark, [("twice", day, f"of day {day}"), (f"own {day}", day, "i")]), day, {}) for day in days]
    events, refusals = ingested(spark, loads, IngestConfig(late_days=2))
    kept = sorted((row["event_id"], row["item_id"]) for row in events.collect())
    assert kept == [("own 0", "i"), ("own 9", "i"), ("twice", "of day 0")], "the one that was known first stays"
    assert refusals == [("event_id has other content already", "twice", "of day 9")], "rows in are rows out"


@pytest.mark.parametrize("order", ["declared later", pytest.param("forgotten later", marks=pytest.mark.slow)])
def test_a_load_that_comes_again_with_a_further_column_takes_the_place_of_the_rows_without_it(spark, order):
    """Not of half of them, by the order of hashes; and what has more to say stays when the load comes once more without it."""
    names = [f"e{number}" for number in range(40)]
    plain = given(spark, [(name, 0, "i") for name in names])
    newer = given(spark, [(f"next {name}", 1, "i", "b1", "feed") for name in names], "brand string", "surface string")
    again = given(spark, [(name, 0, "i", "b0", "feed") for name in names], "brand string", "surface string")
    declared = {"brand": "categorical"}
    loads = [(plain, 0, {}), (newer, 1, declared), (again, 0, declared)]
    if order == "forgotten later":
        loads += [(plain.selectExpr("*", "CAST(NULL AS STRING) AS brand"), 0, declared), (plain, 0, {})]
    events, refusals = ingested(spark, loads)
    found = {row["event_id"]: (row["brand"], row["surface"]) for row in events.collect()}
    assert found == dict.fromkeys(names, ("b0", "feed")) | {f"next {name}": ("b1", "feed") for name in names}
    assert events.count() == 80
    assert refusals == []


def test_what_only_the_table_holds_of_an_event_stays_when_a_load_brings_another_column(spark):
    old = given(spark, [("e", 0, "i", "b")], "brand string")
    new = given(spark, [("e", 0, "i", "m")], "made string")
    events, refusals = ingested(spark, [(old, 0, {"brand": "categorical"}), (new, 0, {"made": "categorical"})])
    assert [(row["brand"], row["made"]) for row in events.collect()] == [("b", "m")]
    assert refusals == []


def test_a_delivery_that_says_something_else_is_refused_as_before(spark):
    old = given(spark, [("e", 0, "i", "b"), ("f", 0, "i", None)], "brand string")
    new = given(spark, [("e", 0, "i", "c"), ("f", 0, "j", "b")], "brand string")
    events, refusals = ingested(spark, [(frame, 0, {"brand": "categorical"}) for frame in (old, new)])
    assert events.count() == 2
    assert [reason for reason, *_ in refusals] == ["event_id has other content already"] * 2

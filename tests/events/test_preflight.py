"""What is said of a load: the span of what is accepted, whatever year a refused row says, and nothing divided by zero."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alure_spark.clock import format_time, parse_time
from alure_spark.config import IngestConfig
from alure_spark.events import preflight
from alure_spark.events.clean import validate_events
from alure_spark.events.preflight import SourceProfile, TableCounts, what_is_empty, what_is_off

SCHEMA = "user_id string, event_time timestamp, source string, item_id string"
NOW = parse_time("2025-06-01")
VIEWS = SourceProfile(rows=10, refused=0, dwell_outliers=0, first_ms=NOW - 5, last_ms=NOW - 1, nulls={}, countries={"ALL": 10})


def validated(spark, rows):
    """(user, epoch ms, stream) -> validated events."""
    made = spark.createDataFrame(rows, "user_id string, ms bigint, source string")
    frame = made.selectExpr("user_id", "timestamp_millis(ms) AS event_time", "source", "'item' AS item_id")
    return validate_events(frame, ["views", "clicks"], {}, 0, NOW)


def test_the_span_is_of_accepted_rows_and_no_year_of_a_refused_one_ends_the_report(spark):
    micro, nano = NOW * 1000, 9_000_000_000_000_000  # microseconds and more taken for milliseconds: years 57,000 and 287,000
    rows = [("u", NOW - 9, "views"), ("v", NOW - 5, "views"), ("u", micro, "views"), ("u", nano, "views"), ("u", -nano, "views"),
            ("u", None, "views"), (None, NOW - 20, "views"), ("u", micro, "clicks"), ("u", NOW - 1, None)]  # fmt: skip
    events = validated(spark, rows).persist()
    found = preflight.profile(events)
    assert (found["views"].rows, found["views"].refused) == (7, 5)
    assert (found["views"].first_ms, found["views"].last_ms) == (NOW - 9, NOW - 5)
    assert (found["clicks"].first_ms, found["?"].first_ms) == (None, None)
    lines = preflight.describe(found, ["views", "conversions"])
    assert lines[0] == "conversions: 0 rows"
    assert any(line.startswith("views: 7 rows, 5 refused; known 2025-05-31 23:59:59.991 to 2025-05-31 23:59:59.995;") for line in lines)
    assert any(line.startswith("clicks: 1 rows, 1 refused; known at no time") for line in lines)
    events.unpersist()


def test_a_load_without_a_row_is_described_and_compared_like_any_other(spark):
    events = validated(spark, [("u", NOW - 9, "views")]).where("false").persist()
    found = preflight.profile(events)
    assert (found, preflight.heavy_hitters(events), preflight.describe(found)) == ({}, [], [])
    events.unpersist()
    limits = IngestConfig(max_row_change=0.1, max_refused_share=0.1, max_null_rise=0.1)
    assert what_is_off({}, {"views": VIEWS.as_dict()}, limits) == ["views: 0 rows, 10 the last time"]
    nothing = replace(VIEWS, rows=0, first_ms=None, last_ms=None).as_dict()
    assert what_is_off({"views": VIEWS}, {"views": nothing}, limits) == [], "there is no share of nothing"
    assert what_is_off({}, {"views": nothing}, limits) == []


def test_what_is_empty_names_the_tables_and_the_batch():
    table = TableCounts("t", "", "", read=3, taken=3, unknown=0, known=None)
    batch, refused = (0, 86_400_000), replace(VIEWS, refused=10, first_ms=None)
    assert what_is_empty([table], {"views": VIEWS}, batch) == []
    assert what_is_empty([], {}, None) == [], "a whole load without an event is refused anyway"
    said = "the batch from 1970-01-01 00:00:00.000 to 1970-01-02 00:00:00.000 has no event"
    assert what_is_empty([table], {}, batch) == [f"{said}: 0 rows"]
    assert what_is_empty([table], {"views": refused}, batch) == [f"{said}: all 10 rows are refused"]
    assert what_is_empty([replace(table, read=0, taken=0), table], {"views": VIEWS}, batch) == ["table t: it has no row"]


@pytest.mark.parametrize(
    ("epoch_ms", "said"),
    [
        (0, "1970-01-01 00:00:00.000"),
        (parse_time("9999-12-31T23:59:59.999"), "9999-12-31 23:59:59.999"),
        (parse_time("0001-01-01"), "0001-01-01 00:00:00.000"),
        (parse_time("9999-12-31T23:59:59.999") + 1, "the year 9999 or so (253402300800000 ms)"),
        (1_514_764_800_000_000, "the year 49970 or so (1514764800000000 ms)"),
        (-65_000_000_000_000, "the year -90 or so (-65000000000000 ms)"),
        (2**63 - 1, "the year 292278994 or so (9223372036854775807 ms)"),
        (-(2**63), "the year -292275055 or so (-9223372036854775808 ms)"),
    ],
)
def test_every_bigint_of_milliseconds_can_be_told(epoch_ms, said):
    assert format_time(epoch_ms) == said

"""Which as_ofs are counted again, decided by what the runs of a lake said. No Spark."""

from __future__ import annotations

import logging

from alure_spark.clock import LAST_AS_OF_MS, parse_time
from alure_spark.config import DynamixConfig
from alure_spark.dynamix.counting import NEVER_MS, Addition, Count, Said, settings_text, stale_as_of
from alure_spark.lake import as_of_scope

DAYS = [parse_time(f"2025-01-{day}") for day in (12, 13, 14)]
TODAY = parse_time("2025-01-15")
HISTORY = dict(zip(DAYS, (None, *DAYS), strict=False))
DYNAMIX = DynamixConfig()


def count(day, version, first="2025-01-12", dynamix=DYNAMIX, events_from="2025-01-10"):
    """The run for this day, which looked at the days since the first one and counted its own."""
    return Count(as_of_scope(day), version, first, events_from, f"{first}T00:00:00Z", settings_text(dynamix))


def stale(counts, additions=(), kept_from=NEVER_MS, history=HISTORY, first_event="2025-01-10"):
    said = Said(counts, additions, kept_from)
    return stale_as_of(history, said, {*DAYS, TODAY}, parse_time(first_event), DYNAMIX)


COUNTED = [count(DAYS[0], 3), count(DAYS[1], 4), count(DAYS[2], 5)]


def test_no_day_is_counted_again_while_nothing_came_in_since():
    assert stale(COUNTED, [Addition(5, "2025-01-11")]) == (None, "")
    assert stale(COUNTED, [Addition(6, "2025-01-14")]) == (None, ""), "what is known at an as_of is of the next one"


def test_the_first_day_that_lacks_events_is_named_with_what_it_lacks():
    assert stale(COUNTED, [Addition(6, "2025-01-13")]) == (DAYS[2], "events known from 2025-01-13 on came in after")
    assert stale(COUNTED, [Addition(6, None)]) == (DAYS[0], "the whole log came in after")


def test_a_day_that_a_later_run_looked_at_lacks_nothing():
    assert stale([*COUNTED, count(TODAY, 6)], [Addition(6, None)]) == (None, "")
    assert stale([*COUNTED, count(TODAY, 6, first="2025-01-14")], [Addition(6, None)])[0] == DAYS[0]
    own = Count(as_of_scope(TODAY), 6, None, None, None, None)  # of an earlier release: its own as_of only
    assert stale([*COUNTED, own], [Addition(6, None)])[0] == DAYS[0]


def test_other_settings_make_a_day_stale_unless_its_events_are_gone(caplog):
    counts = [count(day, version, dynamix=DynamixConfig(window_seconds=60)) for day, version in zip(DAYS, (3, 4, 5), strict=True)]
    assert stale(counts) == (DAYS[0], "dynamix had other settings when")
    with caplog.at_level(logging.WARNING):
        assert stale(counts, kept_from=LAST_AS_OF_MS) == (None, "")
    assert "counted under other settings" in caplog.text


def test_a_day_whose_events_were_let_go_or_are_no_longer_brought_stays():
    assert stale(COUNTED, [Addition(6, None)], kept_from=parse_time("2025-01-11")) == (DAYS[1], "the whole log came in after")
    assert stale(COUNTED, [Addition(6, None)], first_event="2025-01-11") == (DAYS[2], "the whole log came in after")
    assert stale(COUNTED, [Addition(6, None)], kept_from=LAST_AS_OF_MS) == (None, "")

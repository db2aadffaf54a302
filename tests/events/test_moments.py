"""When labels became known: against plain loops, and the same from whatever later moment one looks back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alure_spark.clock import NEVER_MS
from alure_spark.config import OnlineConfig
from alure_spark.events.examples import training_examples
from alure_spark.events.moments import ACCOUNT, EVENT, KNOWN, Moments, answered, moments_of
from tests import oracle
from tests.events.logs import HOUR, LABELS, START, STREAMS, WINDOWS, frame, log, world

TASKS = {"click": "ad_click", "conversion": "conversion"}
MOMENTS = Moments(history_from_ms=START, late_ms=5, report_ms=10)
NOW = START + 200  # all is known
WHOLE = replace(LABELS, max_impressions=1000)


@pytest.fixture(scope="module")
def clean(spark):
    events = world(oracle.cases_of(log, 250))
    return events, frame(spark, events).persist()


def known_ms(event):
    return max(event["event_time"], event["arrival_time"] or event["event_time"])


def rows_at(clean, as_of_ms, moments=MOMENTS, labels=WHOLE):
    rows = training_examples(clean, STREAMS, labels, as_of_ms, moments=moments)
    return {row["user_id"]: row for row in rows.where("size(time_ms) > 0").collect()}


def test_moments_are_those_of_plain_loops(clean):
    events, frame_of = clean
    found, answers = rows_at(frame_of, NOW), 0
    for user in {event["user_id"] for event in events}:
        shown = [event for event in oracle.history(events, user, "ad_impression", NOW) if known_ms(event) - event["event_time"] <= 5]
        shown = sorted(shown, key=lambda event: (event["event_time"], event["hash"]))
        assert (user in found) == bool(shown)
        if not shown:
            continue
        row = found[user]
        assert row[EVENT] == [event["hash"] for event in shown]
        assert row[KNOWN] == [known_ms(event) for event in shown]
        assert row[ACCOUNT] == [0] * len(shown), "the log names no account"
        for task, source in TASKS.items():
            expected = [NEVER_MS] * len(shown)
            for response in oracle.history(events, user, source, NOW):
                if known_ms(response) - response["event_time"] > 10:
                    continue
                mine, _ = oracle.impression_of(response, shown)
                if mine is None or response["event_time"] - mine["event_time"] > WINDOWS[source]:
                    continue
                place = shown.index(mine)
                expected[place] = min(expected[place], max(known_ms(response), response["event_time"] + 5, known_ms(mine)))
            assert row[answered(task)] == expected
            assert row[task] == [int(one != NEVER_MS) for one in expected]
            answers += sum(one != NEVER_MS for one in expected)
    assert answers > 100


@pytest.mark.parametrize("as_of_ms", [START + 15, START + 30, START + 45])
def test_what_was_known_at_a_moment_is_what_a_later_look_back_says_of_it(clean, as_of_ms):
    """Also of impressions that became known late, and of responses that then would belong to one of them."""
    _, frame_of = clean
    then, later = rows_at(frame_of, as_of_ms), rows_at(frame_of, NOW)
    compared = 0
    for user, row in later.items():
        known = [place for place, ms in enumerate(row[KNOWN]) if ms < as_of_ms]
        if not known:
            assert user not in then
            continue
        for name in ("time_ms", "ad_id", EVENT, KNOWN):
            assert then[user][name] == [row[name][place] for place in known]
        for name in map(answered, TASKS):
            answers = [row[name][place] if row[name][place] < as_of_ms else NEVER_MS for place in known]
            assert [one if one < as_of_ms else NEVER_MS for one in then[user][name]] == answers
            compared += sum(one != NEVER_MS for one in answers)
        for stream in STREAMS:  # the same histories, cut at the same moment
            name = f"{stream}__known_at_ms"
            assert then[user][name] == [ms for ms in row[name] if ms < as_of_ms]
    assert compared > 10


def test_a_start_of_impressions_cuts_none_of_their_histories(clean):
    """labels.days leaves impressions out, and histories as they are."""
    _, frame_of = clean
    whole, part = rows_at(frame_of, NOW), rows_at(frame_of, NOW, labels=replace(WHOLE, days=170 / (24 * HOUR)))
    assert 0 < sum(len(row["time_ms"]) for row in part.values()) < sum(len(row["time_ms"]) for row in whole.values())
    for user, row in part.items():
        for stream in STREAMS:
            assert row[f"{stream}__known_at_ms"] == whole[user][f"{stream}__known_at_ms"]


def test_an_attribute_may_say_whose_feedback_is_waited_for(clean):
    _, frame_of = clean
    of_ads = rows_at(frame_of, NOW, replace(MOMENTS, account="ad_id"))
    assert all(row[ACCOUNT] == row["ad_id"] for row in of_ads.values())


def test_settings_become_moments():
    made = Moments.of(OnlineConfig(late_minutes=2.0, report_hours=3.0, account="ad_id"), 5)
    assert made == Moments(5, 120_000, 3 * HOUR, "ad_id")
    assert moments_of(["click"]) == (EVENT, KNOWN, ACCOUNT, "answered_ms__click")

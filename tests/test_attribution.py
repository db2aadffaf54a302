"""Which impression a response belongs to: request ids of several ads, ids that are missing or shared, clocks that are behind."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import strategies as st
from pyspark.sql import functions as F

from alure_spark.attribution import ResponseCounts, answers, count_responses, counts
from alure_spark.clock import known_before
from alure_spark.config import LabelConfig, StreamConfig, TaskConfig
from alure_spark.errors import ConfigError
from alure_spark.events.examples import labelled_impressions, matched_responses, training_examples
from alure_spark.events.sequences import user_sequences
from alure_spark.lake import content_hash
from alure_spark.retrieval.candidates import serving_candidates
from tests import oracle

START, HOUR, DAY = 1_500_000_000_000, 3_600_000, 86_400_000
AS_OF = START + 40
WINDOWS = {"ad_click": 10, "conversion": 25}
LABELS = LabelConfig(click_window_hours=10 / HOUR, conversion_window_hours=25 / HOUR, validation_days=5 / DAY)
SKEWED = replace(LABELS, clock_skew_seconds=4 / 1000)
STREAMS = {
    "ad_impression": StreamConfig({"value": "numeric"}, max_events=3),
    "ad_click": StreamConfig({"value": "numeric"}, max_events=2),
    "conversion": StreamConfig({}, max_events=4, max_days=20 / DAY),
}
SCHEMA = (
    "event_id string, user_id string, country string, source string, event_time timestamp, known_at timestamp, item_id string, "
    "account_id string, impression_id string, value double"
)

event = st.fixed_dictionaries({
    "source": st.sampled_from(["ad_impression", "ad_impression", "ad_click", "conversion"]),
    "event_time": st.integers(0, 42).map(lambda t: START + t),
    "delay": st.sampled_from([None, None, 0, 1, 3, 20]),
    "item_id": st.sampled_from(["a", "a", "b", "c"]),
    "named": st.sampled_from(["r1", "r1", "r2", "own", "", None]),  # r1 and r2 are ids of every user
})  # fmt: skip


def made(logs):
    events = []
    for number, rows in enumerate(logs):
        for place, row in enumerate(rows):
            own = f"u{number}/{place}"
            # A response that names "own" names the event id of the user's first event, which may be an impression without an id.
            named = (f"u{number}/0" if row["source"] != "ad_impression" else own) if row["named"] == "own" else row["named"]
            arrival = None if row["delay"] is None else row["event_time"] + row["delay"]
            events.append(row | {"event_id": own, "user_id": f"u{number}", "impression_id": named, "arrival_time": arrival, "value": place})
    return events


def at(ms):
    return datetime.fromtimestamp(ms / 1000, UTC)


def frame(spark, events):
    """EVENTS as far as labels read them; fills in the hashes that the oracle orders by."""
    rows = [
        (row["event_id"], row["user_id"], "X", row["source"], at(row["event_time"]), at(oracle.known_at(row)), row["item_id"], None,
         row["impression_id"], float(row["value"]))
        for row in events
    ]  # fmt: skip
    hashes = {"event_hash": F.xxhash64("event_id"), "item_hash": F.xxhash64("item_id"), "known_date": F.to_date("known_at")}
    clean = spark.createDataFrame(rows, SCHEMA).withColumns(hashes).persist()
    found = {row["event_id"]: row for row in clean.collect()}
    for row in events:
        row["hash"], row["item_hash"] = found[row["event_id"]]["event_hash"], found[row["event_id"]]["item_hash"]
    return clean


@pytest.fixture(scope="module")
def world(spark):
    events = made(oracle.cases_of(st.lists(event, min_size=6, max_size=16), 250))
    return events, frame(spark, events)


@pytest.mark.parametrize("labels", [LABELS, SKEWED], ids=["exact clocks", "clock skew"])
def test_labels_and_the_counts_of_responses_are_those_of_plain_loops(world, labels):
    events, clean = world
    skew = labels.clock_skew_ms
    found = {row["event_hash"]: (row["click"], row["conversion"]) for row in labelled_impressions(clean, labels, AS_OF).collect()}
    expected, outcomes = {}, Counter()
    for user in sorted({row["user_id"] for row in events}):
        shown = oracle.labels(events, user, AS_OF, WINDOWS, skew)
        expected |= {row["hash"]: (row["ad_click"], row["conversion"]) for row in shown}
        for kind, window in WINDOWS.items():
            for response in oracle.history(events, user, kind, AS_OF):
                row, why = oracle.impression_of(response, shown, skew)
                inside = row is not None and response["event_time"] - row["event_time"] <= window
                outcomes[kind, "matched" if inside else why if row is None else "outside"] += 1
                outcomes[kind, "several"] += inside and why == "several"
    assert found == expected
    responses = matched_responses(clean, labels, AS_OF)
    assert responses.count() == sum(row["source"] in WINDOWS and oracle.known_at(row) < AS_OF for row in events), "one row per response"
    counted = count_responses(responses, labels)
    for label, kind in (("click", "ad_click"), ("conversion", "conversion")):
        one = counted[label]
        assert (one.matched, one.several, one.outside_window, one.ambiguous) == tuple(
            outcomes[kind, why] for why in ("matched", "several", "outside", "ambiguous")
        )
        assert (one.matched_nothing, one.just_early) == (outcomes[kind, "none"] + outcomes[kind, "early"], outcomes[kind, "early"])
        assert one.responses == one.matched + one.outside_window + one.ambiguous + one.matched_nothing
        assert min(getattr(one, item.name) for item in fields(one) if item.name not in ("older", "outside_window")) > 0, "the world has all"
    assert sum(map(sum, found.values())) <= counted["click"].matched + counted["conversion"].matched


def test_no_response_is_history_of_the_impression_it_answers_and_the_rows_are_the_same_from_yesterdays_sequences(world):
    events, clean = world
    labels = replace(SKEWED, days=22 / DAY, max_impressions=3)
    rows = training_examples(clean, STREAMS, labels, AS_OF, {"value": "numeric"}).persist()
    early = 0
    for row in rows.collect():
        user, times = row["user_id"], row["time_ms"]
        moved = {source: {} for source in WINDOWS}
        recent = [one for one in events if one["event_time"] >= labels.first_ms(AS_OF) or one["source"] != "ad_impression"]
        for kind, window in WINDOWS.items():
            shown = oracle.labels(recent, user, AS_OF, WINDOWS, 4)
            for response in oracle.history(recent, user, kind, AS_OF):
                impression, _ = oracle.impression_of(response, shown, 4)
                if impression is not None and response["event_time"] - impression["event_time"] <= window:
                    moved[kind][response["event_id"]] = max(oracle.known_at(response), impression["event_time"])
        for kind, stream in ((kind, STREAMS[kind]) for kind in WINDOWS):
            known_at = row[f"{kind}__known_at_ms"]
            assert known_at == sorted(known_at)
            expected = Counter(moved[kind].get(one["event_id"], oracle.known_at(one)) for one in oracle.history(events, user, kind, AS_OF))
            assert Counter(known_at) <= expected
            early += sum(when > oracle.known_at(one) for one in events for name, when in moved[kind].items() if name == one["event_id"])
            for moment in times:  # what serving would have seen there, but for what answers it
                seen = sorted(when for when in expected.elements() if when < moment and (not stream.max_days or when >= moment - 20))
                stored = [when for when in known_at if known_before(when, moment)]
                assert stored[len(stored) - len(seen[-stream.max_events :]) :] == seen[-stream.max_events :]
    assert early > 5
    since = labels.first_ms(AS_OF) - labels.clock_skew_ms
    unread, before = clean.where(F.unix_millis("known_at") >= since), user_sequences(clean, STREAMS, since)
    again = training_examples(unread, STREAMS, labels, AS_OF, {"value": "numeric"}, (before, since))
    assert content_hash(again) == content_hash(rows)
    rows.unpersist()


def case(rows, user="u"):
    """(source, ms, ad, impression_id) of one user -> events."""
    return [
        {"event_id": f"{user}/{place}", "user_id": user, "source": source, "event_time": START + ms, "arrival_time": None, "item_id": ad,
         "impression_id": named, "value": place}
        for place, (source, ms, ad, named) in enumerate(rows)
    ]  # fmt: skip


SLOTS = [("ad_impression", 1, ad, "request") for ad in "abc"]
CAMPAIGN = [("ad_impression", 1, "campaign:4", "u/4")]


CASES = {  # log, clicks of its impressions as they are listed, what is said
    "the ad decides": ([*SLOTS, ("ad_click", 2, "b", "request")], [0, 1, 0], "1 of 1"),
    "no such ad": ([*SLOTS, ("ad_click", 2, "z", "request")], [0, 0, 0], "1 name an id of several ads and none of these ads"),
    "the id alone decides": ([*CAMPAIGN, ("ad_click", 2, "coupon", "u/4")], [1], "1 of 1"),
    "shown twice under one id": (
        [("ad_impression", 1, "a", "r"), ("ad_impression", 3, "a", "r"), ("ad_click", 4, "a", "r")], [0, 1],
        "1 of these name an id under which the ad was shown several times",
    ),
    "a clock behind": ([*CAMPAIGN, ("ad_click", 0, "coupon", "u/4")], [0], "1 by at most a minute: set labels.clock_skew_seconds"),
    "shown again after the click": (
        [("ad_impression", 1, "a", "r"), ("ad_click", 2, "a", "r"), ("ad_impression", 4, "a", "r")], [1, 0], "1 of 1",
    ),
    "empty ids": ([("ad_impression", 1, "a", ""), ("ad_click", 2, "b", "")], [0], "1 matched no impression"),
    "last touch": ([("ad_impression", 1, "a", ""), ("ad_click", 2, "a", "")], [1], "1 of 1"),
    "early last touch": ([("ad_impression", 1, "a", "r"), ("ad_click", 0, "a", None)], [0], "1 matched no impression"),
    "too late": ([("ad_impression", 1, "a", "r"), ("ad_click", 12, "a", "r")], [0], "1 came after labels.click_window_hours"),
    "of another user": ([("ad_impression", 1, "a", "mine"), ("ad_click", 2, "a", "request")], [0], "1 matched no impression"),
}  # fmt: skip
WITH_SKEW = {
    "a clock behind": ([1], "1 of 1"),
    "early last touch": ([0], "1 matched no impression"),
    "shown again after the click": ([1, 0], "1 of 1"),
    "the ad decides": ([0, 1, 0], "1 of 1"),
}


def test_what_a_click_labels_and_what_is_said_of_it(spark):
    """One user per case, so that the ids of the cases are ids of other users, too."""
    events = [row for name, (log, _, _) in CASES.items() for row in case(log, name)]
    clean = frame(spark, events)
    for labels, cases in ((LABELS, {name: one[1:] for name, one in CASES.items()}), (SKEWED, WITH_SKEW)):
        found = {row["event_hash"]: row["click"] for row in labelled_impressions(clean, labels, AS_OF).collect()}
        per_user = matched_responses(clean, labels, AS_OF).groupBy("user_id")
        asked = counts(labels.declared["click"], labels.clock_skew_ms).alias("n")
        told = {row["user_id"]: ResponseCounts(**row["n"].asDict()) for row in per_user.agg(asked).collect()}
        for name, (clicks, sentence) in cases.items():
            mine = [row["hash"] for row in events if row["user_id"] == name and row["source"] == "ad_impression"]
            assert [found[one] for one in mine] == clicks, name
            assert sentence in told[name].sentence("click", "ad_click"), name


def test_a_response_whose_impression_may_be_older_than_the_days_of_the_examples_is_not_called_unmatched(spark):
    days = replace(LABELS, days=22 / DAY)
    first = days.first_ms(AS_OF)
    clean = frame(spark, case([("ad_click", first - START + 3, "a", "r"), ("ad_click", first - START + 15, "a", "r")]))
    counted = count_responses(matched_responses(clean, days, AS_OF, first), days, first)["click"]
    assert (counted.responses, counted.matched, counted.older, counted.matched_nothing, counted.just_early) == (2, 0, 1, 1, 0)
    assert "1 may answer an impression from before labels.days; 1 matched no impression" in counted.sentence("click", "ad_click")


def test_one_stream_of_responses_may_make_both_labels(spark):
    labels = replace(LABELS, conversion_source="ad_click")
    clean = frame(spark, case([*SLOTS, ("ad_click", 15, "b", "request")]))
    rows = {row["time_ms"]: row for row in labelled_impressions(clean, labels, AS_OF).where("conversion = 1").collect()}
    assert [(row["click"], row["conversion"]) for row in rows.values()] == [(0, 1)]
    counted = count_responses(matched_responses(clean, labels, AS_OF), labels)
    assert (counted["click"].outside_window, counted["conversion"].matched) == (1, 1)


def test_a_skew_of_more_than_an_hour_or_below_0_is_refused():
    for seconds in (-1.0, 3601.0, float("nan")):
        with pytest.raises(ConfigError, match="labels.clock_skew_seconds"):
            LabelConfig(clock_skew_seconds=seconds)


def test_a_response_at_the_last_millisecond_of_a_window_of_a_fraction_of_an_hour_is_within_it(spark):
    delays = [("click", 0, delay) for delay in (1_043_999, 1_044_000, 1_044_001)]  # ms
    rows = spark.createDataFrame(delays, "source string, time_ms long, response_ms long")
    found = rows.select("response_ms", answers(TaskConfig("click", 0.29)).alias("within")).collect()
    assert [row["within"] for row in sorted(found)] == [True, True, False]
    schema = (
        "user_id string, as_of timestamp, ad_id array<string>, account_id array<string>, score array<double>, graphs array<string>, "
        "neighbours array<int>, reason array<string>"
    )
    row = ("u", datetime.fromtimestamp(0, UTC), ["a"], ["b"], [1.0], ["g"], [1], ["r"])
    served = serving_candidates(spark.createDataFrame([row], schema), 0.29)
    assert served.selectExpr("unix_millis(expires_at) - unix_millis(as_of)").first()[0] == 1_044_000

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
from hypothesis import strategies as st
from pyspark.sql import functions as F

from alure_spark.boundary import known_before
from alure_spark.config import FeaturePolicy, LabelConfig, StreamConfig, VocabularyConfig
from alure_spark.events.clean import accepted, judge_events
from alure_spark.events.examples import training_examples
from alure_spark.events.sequences import select_features, user_sequences
from alure_spark.events.vocabularies import new_vocabulary_rows
from tests import oracle

DAY = 86_400_000
START = 1_500_000_000_000
AS_OF = START + 40  # times are START .. START + 60 ms: ties and borders everywhere
STREAMS = {
    "organic": StreamConfig({"category_id": "categorical", "value": "numeric"}, max_events=3),
    "ad_impression": StreamConfig({}, max_events=4),
    "ad_click": StreamConfig({}, max_events=2),
    "conversion": StreamConfig({}, max_events=2),
}
HOUR = 3_600_000
LABELS = LabelConfig(click_window_hours=10 / HOUR, conversion_window_hours=25 / HOUR, validation_days=15 / DAY, max_impressions=5)
WINDOWS = {"ad_click": 10, "conversion": 25}
SCHEMA = (
    "event_id string, user_id string, country string, event_time timestamp, arrival_time timestamp, source string, item_id string, "
    "account_id string, category_id string, value double, impression_id string"
)

event = st.fixed_dictionaries({
    "source": st.sampled_from(sorted(STREAMS)),
    "event_time": st.integers(0, 60).map(lambda t: START + t),
    "delay": st.sampled_from([None, None, 0, 1, 5, 30]),
    "item_id": st.sampled_from(["a", "b"]),
    "country": st.sampled_from(["X", "Y"]),
    "category_id": st.sampled_from([None, "c"]),
    "by_id": st.booleans(),
})  # fmt: skip
log = st.lists(event, max_size=14)


def moment(epoch_ms):
    return None if epoch_ms is None else datetime(1970, 1, 1) + timedelta(milliseconds=epoch_ms)


def world(logs):
    """Events of many users, one hypothesis-made log each; responses may name an impression of their own user."""
    events = []
    for number, rows in enumerate(logs):
        user = f"u{number}"
        shown = [f"{user}/{place}" for place, row in enumerate(rows) if row["source"] == "ad_impression"]
        for place, row in enumerate(rows):
            is_response = row["source"] in WINDOWS
            named = shown[place % len(shown)] if is_response and row["by_id"] and shown else None
            events.append({
                "event_id": f"{user}/{place}", "user_id": user, "country": row["country"], "event_time": row["event_time"],
                "arrival_time": None if row["delay"] is None else row["event_time"] + row["delay"], "source": row["source"],
                "item_id": row["item_id"], "account_id": None, "category_id": row["category_id"], "value": float(place),
                "impression_id": f"{user}/{place}" if row["source"] == "ad_impression" and row["by_id"] else named,
            })  # fmt: skip
    return events


def frame(spark, events):
    """The events as ingestion accepts them; fills in the hashes that the oracle orders by."""
    names = [part.split()[0] for part in SCHEMA.split(", ")]
    rows = [tuple(moment(row[name]) if name.endswith("_time") else row[name] for name in names) for row in events]
    clean = accepted(judge_events(spark.createDataFrame(rows, SCHEMA), list(STREAMS), {}, 0, START + 10 * DAY))
    hashes = {row["event_id"]: row for row in clean.select("event_id", "event_hash", "item_hash").collect()}
    for row in events:
        row["hash"], row["item_hash"] = hashes[row["event_id"]]["event_hash"], hashes[row["event_id"]]["item_hash"]
    return clean


def test_sequences_and_labels_agree_with_the_plain_python_oracle_on_hundreds_of_logs(spark):
    events = world(oracle.cases_of(log, 400))
    clean = frame(spark, events).persist()
    sequences = {row["user_id"]: row for row in user_sequences(clean, STREAMS, AS_OF).collect()}
    attributes = {"category_id": "categorical", "value": "numeric"}
    examples = {row["user_id"]: row for row in training_examples(clean, STREAMS, LABELS, AS_OF, attributes).collect()}
    expected_users = {row["user_id"] for row in events if oracle.known_at(row) < AS_OF}
    assert set(sequences) == set(examples) == expected_users
    for user in expected_users:
        every = [row for source in STREAMS for row in oracle.history(events, user, source, AS_OF)]
        assert sequences[user]["country"] == max(every, key=lambda row: (oracle.known_at(row), row["hash"]))["country"]
        for source, stream in STREAMS.items():
            known = oracle.history(events, user, source, AS_OF)[-stream.max_events :]
            assert sequences[user][f"{source}__known_at_ms"] == [oracle.known_at(row) for row in known]
            assert sequences[user][f"{source}__event_time_ms"] == [row["event_time"] for row in known]
            assert sequences[user][f"{source}__item_id"] == [row["item_hash"] for row in known]
            if "value" in stream.attributes:
                assert sequences[user][f"{source}__value"] == [row["value"] for row in known]
                assert [value is None for value in sequences[user][f"{source}__category_id"]] == [
                    row["category_id"] is None for row in known
                ]
        check_example(events, user, examples[user])
    clean.unpersist()


def check_example(events, user, example):
    shown = oracle.labels(events, user, AS_OF, WINDOWS)[-LABELS.max_impressions :]
    assert example["time_ms"] == [row["event_time"] for row in shown]
    assert example["impression_id"] == [row["impression_id"] or row["event_id"] for row in shown]
    assert example["click"] == [row["ad_click"] for row in shown]
    assert example["conversion"] == [row["conversion"] for row in shown]
    assert example["label_age_ms"] == [AS_OF - row["event_time"] for row in shown]
    assert example["split"] == ["train" if row["event_time"] < AS_OF - 15 else "validation" for row in shown]
    assert [value is None for value in example["impression__category_id"]] == [row["category_id"] is None for row in shown]
    assert example["impression__value"] == [row["value"] for row in shown]
    for source, stream in STREAMS.items():
        known = oracle.history(events, user, source, AS_OF)
        before_first = oracle.history(events, user, source, shown[0]["event_time"] if shown else AS_OF)
        expected = known[max(0, len(before_first) - stream.max_events) :]
        assert example[f"{source}__known_at_ms"] == [oracle.known_at(row) for row in expected]
        for row in shown:  # training sees what serving sees: the last N before each impression are in the row
            serving = [oracle.known_at(known) for known in oracle.history(events, user, source, row["event_time"])[-stream.max_events :]]
            stored = [t for t in example[f"{source}__known_at_ms"] if known_before(t, row["event_time"])]
            assert stored[-stream.max_events :] == serving


def test_immature_impressions_are_held_back_and_thinned_negatives_keep_the_base_rate(spark):
    events = world(oracle.cases_of(log, 300))
    clean = frame(spark, events).persist()

    def impressions(labels):
        rows = training_examples(clean, STREAMS, labels, AS_OF).collect()
        names = ("impression_id", "time_ms", "click", "conversion", "weight", "split")
        return [one for row in rows for one in zip([row["user_id"]] * len(row["time_ms"]), *(row[name] for name in names), strict=True)]

    every = replace(LABELS, max_impressions=50)
    whole = impressions(every)
    held_back = impressions(replace(every, hold_back_immature=True))
    assert held_back == [one for one in whole if AS_OF - one[2] > max(WINDOWS.values())]
    assert 0 < len(held_back) < len(whole)

    sampled = impressions(replace(every, negative_rate=0.25))
    assert sampled == impressions(replace(every, negative_rate=0.25)), "the same ones in every run"
    thinned = [one for one in whole if not one[3] and not one[4] and one[6] == "train"]
    kept = [one for one in sampled if one[5] != 1]
    assert {one[:5] for one in sampled if one[5] == 1} == {one[:5] for one in whole} - {one[:5] for one in thinned}
    assert {one[:5] for one in kept} <= {one[:5] for one in thinned}
    assert all(one[5] == 4 for one in kept)
    error = (len(thinned) * 0.25 * 0.75) ** 0.5
    assert abs(len(kept) - 0.25 * len(thinned)) < 4 * error
    clean.unpersist()


def test_planted_events_that_were_not_yet_known_are_in_no_history_and_no_label(spark):
    """The same log with and without events of the future, by event time and by arrival time: nothing changes."""
    past = [
        dict(source="organic", event_time=START + 1, delay=None, item_id="a", country="X", category_id="c", by_id=False),
        dict(source="ad_impression", event_time=START + 30, delay=None, item_id="a", country="X", category_id=None, by_id=True),
    ]  # fmt: skip
    future = [
        dict(past[0], event_time=AS_OF),
        dict(past[0], event_time=START + 5, delay=35),  # happened before, known at as_of
        dict(past[1], source="ad_click", event_time=START + 35, delay=5),
        dict(past[1], source="conversion", event_time=AS_OF + 3),
        dict(past[1], event_time=AS_OF),
    ]
    without, planted = (world([rows]) for rows in (past, past + future))
    for build in (lambda e: user_sequences(e, STREAMS, AS_OF), lambda e: training_examples(e, STREAMS, LABELS, AS_OF)):
        assert build(frame(spark, without)).collect() == build(frame(spark, planted)).collect()
    later = training_examples(frame(spark, planted), STREAMS, LABELS, AS_OF + 1).first()
    assert later["click"] == [1, 0], "one millisecond later the click is known"


def test_the_boundary_is_exclusive_for_columns_and_for_arrays(spark):
    times = [4, 5, 6]
    assert list(known_before(np.array(times), 5)) == [True, False, False]
    rows = spark.createDataFrame([(t,) for t in times], "t int").select(known_before(F.col("t"), F.lit(5)).alias("known")).collect()
    assert [row["known"] for row in rows] == [True, False, False]


def test_a_user_with_100_000_events_keeps_the_last_n(spark):
    busy = spark.range(100_000).select(
        F.concat(F.lit("e"), "id").alias("event_id"), F.lit("busy").alias("user_id"),
        F.timestamp_millis(F.lit(START) + F.col("id") % 30).alias("event_time"),
        F.lit("organic").alias("source"), F.col("id").cast("string").alias("item_id"),
        F.lit(None).cast("string").alias("category_id"), F.lit(0.5).alias("value"),
    )  # fmt: skip
    clean = accepted(judge_events(busy, list(STREAMS), {"category_id": "categorical", "value": "numeric"}, 0, START + 10 * DAY))
    row = user_sequences(clean, STREAMS, AS_OF).first()
    assert row["organic__event_time_ms"] == [START + 29] * 3
    assert row["ad_click__item_id"] == []


def test_vocabulary_rows_never_change_and_new_ids_append(spark):
    events = world([[dict(source="organic", event_time=START + t, delay=None, item_id=item, country="X", category_id="c", by_id=False)
                     for t, item in enumerate("ab")]])  # fmt: skip
    clean = frame(spark, events)
    first = new_vocabulary_rows(clean, None, ["category_id"], START + 1).persist()
    assert sorted((row["space"], row["row"]) for row in first.collect()) == [("category_id", 1), ("item_id", 1)]
    second = new_vocabulary_rows(clean, first, ["category_id"], AS_OF).collect()
    assert [(row["space"], row["row"]) for row in second] == [("item_id", 2)]
    assert new_vocabulary_rows(clean, first.unionByName(spark.createDataFrame(second, first.schema)), ["category_id"], AS_OF).isEmpty()


def test_an_id_gets_a_row_once_enough_events_have_named_it_and_rows_begin_after_the_buckets(spark):
    events = world([[dict(source="organic", event_time=START + t, delay=None, item_id=item, country="X", category_id=None, by_id=False)
                     for t, item in enumerate("aab" + "b")]])  # fmt: skip
    clean, config = frame(spark, events), VocabularyConfig(min_count=2, hash_buckets=10)
    first = new_vocabulary_rows(clean, None, [], START + 3, config).persist()
    assert [(row["space"], row["row"]) for row in first.collect()] == [("item_id", 11)]
    second = new_vocabulary_rows(clean, first, [], START + 4, config).collect()
    assert [(row["space"], row["row"]) for row in second] == [("item_id", 12)]


def test_a_policy_reads_only_its_sources_attributes_and_events(spark):
    events = world(
        [
            [
                dict(source="organic", event_time=START + t, delay=None, item_id="a", country="X", category_id="c", by_id=False)
                for t in range(3)
            ]
        ]
    )
    sequences = user_sequences(frame(spark, events), STREAMS, AS_OF)
    policy = FeaturePolicy(sources=("organic",), drop_attributes={"organic": ("value",)}, max_events={"organic": 2})
    row = select_features(sequences, policy.select(STREAMS)).first()
    assert sorted(row.asDict()) == sorted(
        ["user_id", "country", "as_of", "organic__known_at_ms", "organic__event_time_ms", "organic__item_id", "organic__category_id"]
    )
    assert row["organic__event_time_ms"] == [START + 1, START + 2]

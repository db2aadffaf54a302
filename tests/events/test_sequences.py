from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from alure_spark.clock import known_before
from alure_spark.config import FeaturePolicy, VocabularyConfig
from alure_spark.events import sequences
from alure_spark.events.clean import accepted, validate_events
from alure_spark.events.dwell import dwell_sums
from alure_spark.events.examples import training_examples
from alure_spark.events.sequences import Grouping, heavy_users, select_features, user_sequences
from alure_spark.events.vocabularies import new_vocabulary_rows
from alure_spark.lake import content_hash
from tests import oracle
from tests.events.logs import AS_OF, DAY, LABELS, START, STREAMS, WINDOWS, frame, log, world


def test_sequences_and_labels_agree_with_the_plain_python_oracle_on_hundreds_of_logs(spark):
    events = world(oracle.cases_of(log, 400))
    clean = frame(spark, events).persist()
    found = {row["user_id"]: row for row in user_sequences(clean, STREAMS, AS_OF).collect()}
    attributes = {"category_id": "categorical", "value": "numeric"}
    examples = {row["user_id"]: row for row in training_examples(clean, STREAMS, LABELS, AS_OF, attributes).collect()}
    expected_users = {row["user_id"] for row in events if oracle.known_at(row) < AS_OF}
    assert set(found) == set(examples) == expected_users
    for user in expected_users:
        every = [row for source in STREAMS for row in oracle.history(events, user, source, AS_OF)]
        assert found[user]["country"] == max(every, key=lambda row: (oracle.known_at(row), row["hash"]))["country"]
        for source, stream in STREAMS.items():
            known = oracle.kept(oracle.history(events, user, source, AS_OF), stream, AS_OF)
            assert found[user][f"{source}__known_at_ms"] == [oracle.known_at(row) for row in known]
            assert found[user][f"{source}__event_time_ms"] == [row["event_time"] for row in known]
            assert found[user][f"{source}__item_id"] == [row["item_hash"] for row in known]
            if "value" in stream.attributes:
                assert found[user][f"{source}__value"] == [row["value"] for row in known]
                assert [value is None for value in found[user][f"{source}__category_id"]] == [row["category_id"] is None for row in known]
        check_example(events, user, examples[user])
    clean.unpersist()


def check_example(events, user, example, labels=LABELS):
    first_ms = labels.first_ms(AS_OF) or 0
    shown = [row for row in oracle.labels(events, user, AS_OF, WINDOWS) if row["event_time"] >= first_ms][-labels.max_impressions :]
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
        first = shown[0]["event_time"] if shown else AS_OF
        before_first = oracle.history(events, user, source, first)
        expected = known[len(before_first) - len(oracle.kept(before_first, stream, first)) :]
        assert example[f"{source}__known_at_ms"] == [oracle.known_at(row) for row in expected]
        for row in shown:  # training sees what serving sees: the last N before each impression are in the row
            history = oracle.history(events, user, source, row["event_time"])
            serving = [oracle.known_at(known) for known in oracle.kept(history, stream, row["event_time"])]
            stored = [t for t in example[f"{source}__known_at_ms"] if known_before(t, row["event_time"])]
            assert stored[len(stored) - len(serving) :] == serving


def test_examples_of_the_last_days_come_from_yesterdays_sequences_as_from_the_whole_log(spark):
    """And with each label that the whole log gives them, whatever happened before."""
    events = world(oracle.cases_of(log, 300))
    clean = frame(spark, events).persist()
    attributes, labels = {"category_id": "categorical", "value": "numeric"}, replace(LABELS, days=22 / DAY)
    first_ms = labels.first_ms(AS_OF)
    whole = training_examples(clean, STREAMS, labels, AS_OF, attributes)
    rows = {row["user_id"]: row for row in whole.collect()}
    assert set(rows) == {row["user_id"] for row in events if first_ms <= oracle.known_at(row) < AS_OF}
    for user, row in rows.items():
        check_example(events, user, row, labels)
    assert any(row["time_ms"] for row in rows.values())
    for since in (first_ms, first_ms - 5):
        unread = clean.where(F.unix_millis("known_at") >= since)
        before = user_sequences(clean, STREAMS, since)
        assert content_hash(training_examples(unread, STREAMS, labels, AS_OF, attributes, (before, since))) == content_hash(whole)
    clean.unpersist()


def test_the_rows_do_not_depend_on_how_spark_groups_the_events(spark, monkeypatch):
    clean = frame(spark, world(oracle.cases_of(log, 200))).persist()
    sums = dwell_sums(F.when(F.col("source") != "conversion", F.col("category_id").isNotNull()))
    clean = clean.withColumn("dwell_ms", F.col("value").cast("bigint"))
    wanted = user_sequences(clean, STREAMS, AS_OF, also=sums).persist()
    assert wanted.where("n_1 > 1 AND n_0 > 1").count() > 5
    by_user = user_sequences(clean, STREAMS, AS_OF, Grouping(by_hash=False), sums)
    assert content_hash(by_user) == content_hash(wanted)
    monkeypatch.setattr(sequences, "SAMPLED", 1)
    monkeypatch.setattr(sequences, "HEAVY", 8)
    known = Counter(row["user_id"] for row in clean.where(F.unix_millis("known_at") < AS_OF).select("user_id").collect())
    heavy = heavy_users(clean, AS_OF)
    assert set(heavy) == {user for user, count in known.items() if count >= 8}
    assert 0 < len(heavy) < len(known)
    assert content_hash(user_sequences(clean, STREAMS, AS_OF, Grouping(heavy=heavy), sums)) == content_hash(wanted)
    examples = training_examples(clean, STREAMS, LABELS, AS_OF)
    light = examples.where(~F.col("user_id").isin(list(heavy)))
    assert content_hash(training_examples(clean, STREAMS, LABELS, AS_OF, grouping=Grouping(heavy=heavy))) == content_hash(light)

    monkeypatch.setattr(sequences, "user_hash", lambda: F.pmod(F.xxhash64("user_id"), F.lit(5)))
    with pytest.raises(Exception, match="two users share a 64-bit hash: u[0-9]+ and u[0-9]+"):
        user_sequences(clean, STREAMS, AS_OF).collect()
    clean.unpersist()


def test_dwell_sums_of_parts_add_up_to_those_of_the_whole_and_to_a_loop(spark):
    rows = [("u", 1, 300, True), ("u", 2, 500, False), ("v", 3, None, True), ("v", 4, 700, None), ("u", 5, 900, True), ("v", 6, 0, True)]
    events = spark.createDataFrame(rows, "user_id string, part int, dwell_ms int, converted boolean")
    sums, names = dwell_sums(F.col("converted")), ["n", "sum_log_dwell_micro", "sum_log_dwell_sq_micro"]
    found = {row["user_id"]: row.asDict() for row in events.groupBy("user_id").agg(*sums).collect()}
    logs = {label: [math.log(ms) for user, _, ms, said in rows if user == "u" and said == bool(label)] for label in (0, 1)}
    expected = {f"{name}_{label}": sum(round(1e6 * log**power) if power else 1 for log in logs[label])
                for label in (0, 1) for power, name in enumerate(names)}  # fmt: skip
    assert found["u"] == {"user_id": "u"} | expected
    assert set(found["v"].values()) == {"v", 0}
    parts = events.groupBy("user_id", F.col("part") % 2).agg(*sums).groupBy("user_id").agg(*(F.sum(name).alias(name) for name in expected))
    assert {row["user_id"]: row.asDict() for row in parts.collect()} == found


def test_immature_impressions_are_held_back_and_thinned_negatives_keep_the_base_rate(spark):
    events = world(oracle.cases_of(log, 300))
    clean = frame(spark, events).persist()

    def impressions(labels):
        rows = training_examples(clean, STREAMS, labels, AS_OF).collect()
        names = ("impression_id", "time_ms", "click", "conversion", "weight", "split")
        columns = [zip([row["user_id"]] * len(row["time_ms"]), *(row[name] for name in names), strict=True) for row in rows]
        return sorted(itertools.chain.from_iterable(columns))  # the users come in the order of partitions

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
        assertDataFrameEqual(build(frame(spark, planted)), build(frame(spark, without)), rtol=0, atol=0)
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
    clean = accepted(validate_events(busy, list(STREAMS), {"category_id": "categorical", "value": "numeric"}, 0, START + 10 * DAY))
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
    only_new = clean.where(F.unix_millis("known_at") > START)
    assert [row["row"] for row in new_vocabulary_rows(only_new, first, ["category_id"], AS_OF, since_ms=START + 1).collect()] == [2]
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
                dict(source="organic", event_time=START + 30 + t, delay=None, item_id="a", country="X", category_id="c", by_id=False)
                for t in range(3)
            ]
        ]
    )
    table = user_sequences(frame(spark, events), STREAMS, AS_OF)
    policy = FeaturePolicy(sources=("organic",), drop_attributes={"organic": ("value",)}, max_events={"organic": 2})
    row = select_features(table, policy.select(STREAMS), AS_OF).first()
    assert sorted(row.asDict()) == sorted(
        ["user_id", "country", "as_of", "organic__known_at_ms", "organic__event_time_ms", "organic__item_id", "organic__category_id"]
    )
    assert row["organic__event_time_ms"] == [START + 31, START + 32]

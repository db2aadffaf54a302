"""Training rows told apart by the segment that held at each impression: against a plain loop, and never by what came later."""

from __future__ import annotations

import random

import pytest
from hypothesis import strategies as st
from pyspark.sql import functions as F

from alure_spark.events.examples import training_examples
from alure_spark.events.segment_history import in_segments
from tests import oracle
from tests.events.logs import AS_OF, LABELS, START, STREAMS, frame, log, moment, world

period = st.fixed_dictionaries({
    "as_of": st.integers(0, 60), "waits": st.integers(0, 4), "lasts": st.integers(1, 20),
    "surface": st.sampled_from(["ALL", "ALL", "feed"]), "segment": st.sampled_from(["passive", "active", "active_2"]),
})  # fmt: skip
USERS = 300


def segments_of(spark, periods):
    """user_segments of the users u0, u1, ..., each with its periods; two rows of a user, surface and as_of are one."""
    rows = []
    for number, mine in enumerate(periods):
        for as_of, surface in {(one["as_of"], one["surface"]) for one in mine}:
            one = next(one for one in mine if (one["as_of"], one["surface"]) == (as_of, surface))
            begin = START + as_of + one["waits"]
            rows.append((f"u{number}", surface, one["segment"], *map(moment, (begin, begin + one["lasts"], START + as_of))))
    schema = "user_id string, surface string, segment string, valid_from timestamp, valid_to timestamp, as_of timestamp"
    named = spark.createDataFrame(rows, schema)
    milliseconds = (F.unix_millis(name).alias(name) for name in ("valid_from", "valid_to", "as_of"))
    return named, named.select("user_id", "surface", "segment", *milliseconds).collect()


def expected(rows, user, time_ms):
    """The segment over all surfaces that the newest run gave the moment; passive where none did."""
    holding = [row for row in rows if row["user_id"] == user and row["surface"] == "ALL" and row["valid_from"] <= time_ms < row["valid_to"]]
    return max(holding, key=lambda row: row["as_of"])["segment"] if holding else "passive"


@pytest.fixture(scope="module")
def made(spark):
    events = world(oracle.cases_of(log, USERS))
    named, rows = segments_of(spark, oracle.cases_of(st.lists(period, max_size=6), USERS))
    return events, frame(spark, events).persist(), named.persist(), rows


def test_each_impression_is_in_the_segment_that_held_when_it_was_shown(spark, made):
    events, clean, named, rows = made
    whole = {row["user_id"]: row.asDict() for row in training_examples(clean, STREAMS, LABELS, AS_OF).collect()}
    found = {
        (row["user_id"], row["segment"]): row.asDict() for row in training_examples(clean, STREAMS, LABELS, AS_OF, segments=named).collect()
    }
    wanted = {}
    for user, row in whole.items():
        names = [expected(rows, user, time) for time in row["time_ms"]] or [expected(rows, user, AS_OF)]
        for name in set(names):
            wanted[user, name] = [place for place, its in enumerate(names) if its == name and row["time_ms"]]
    assert set(found) == set(wanted)
    assert len({user for user, _ in found}) < len(found)
    assert {segment for _, segment in found} == {"passive", "active", "active_2"}
    for (user, segment), places in wanted.items():
        mine, all_of_user = found[user, segment], whole[user]
        for name in ("impression_id", "time_ms", "ad_id", "click", "conversion", "weight", "split", "label_age_ms"):
            assert mine[name] == [all_of_user[name][place] for place in places]
        for source, stream in STREAMS.items():  # the history that the first impression of this segment may see, and all after it
            first = mine["time_ms"][0] if places else AS_OF
            known = oracle.history(events, user, source, AS_OF)
            before = [row for row in known if oracle.known_at(row) < first]
            cut = oracle.kept(before, stream, first)
            assert mine[f"{source}__known_at_ms"] == [oracle.known_at(row) for row in cut + known[len(before) :]]


def test_what_becomes_known_of_segments_later_changes_no_row(spark, made):
    _, clean, named, _rows = made
    first = min(row["time_ms"][0] for row in training_examples(clean, STREAMS, LABELS, AS_OF).where("size(time_ms) > 0").collect())
    late = named.where(F.unix_millis("valid_from") > AS_OF).withColumn("segment", F.lit("active_9"))
    early = named.where(F.unix_millis("valid_from") <= AS_OF)
    assert late.count()
    assert first < AS_OF
    one, two = (
        {tuple(map(str, row)) for row in training_examples(clean, STREAMS, LABELS, AS_OF, segments=given).collect()}
        for given in (named, early.unionByName(late))
    )
    assert one == two


def test_users_are_in_the_segment_of_the_moment(spark, made):
    _, _, named, rows = made
    users = [f"u{number}" for number in range(USERS)] + ["nobody"]
    random.Random(3).shuffle(users)
    at = START + 20
    found = {
        row["user_id"]: row["segment"]
        for row in in_segments(spark.createDataFrame([(u,) for u in users], "user_id string"), named, at).collect()
    }
    assert found == {user: expected(rows, user, at) for user in users}
    assert len(set(found.values())) == 3

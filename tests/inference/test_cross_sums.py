"""Sums of cross representations of a batch of rows, without Spark: what a unit is called, and numbers that cannot be summed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from alure_spark.clock import DAY_MS
from alure_spark.errors import DataError
from alure_spark.inference import representations
from alure_spark.inference.cross_table import summed, unit_of
from alure_spark.inference.representations import worker_reader


def rows(users, segments=None):
    shown = [[5 * DAY_MS + place, 6 * DAY_MS] for place in range(len(users))]
    return pa.RecordBatch.from_pydict(
        {
            "user_id": users,
            "segment": segments or ["all"] * len(users),
            "shown_known_at_ms": shown,
            "weight": [[1.0, 2.0]] * len(users),
            "ad_id": [[7, None]] * len(users),
        }
    )


def test_units_of_the_same_users_in_other_segments_are_other_units():
    """A user has a row per segment; two batches may hold the same users."""
    named = [unit_of(rows(["a", "b"], segments)) for segments in (["x", "x"], ["y", "y"], ["x", "y"])]
    assert len(set(named)) == 3
    assert named[0] == unit_of(rows(["a", "b"], ["x", "x"]))
    assert unit_of(rows(["b", "a"], ["x", "x"])) not in named
    assert unit_of(rows(["ab"], ["x"])) != unit_of(rows(["a"], ["bx"]))


class Reader:
    def __init__(self, vectors):
        self.vectors = vectors

    def read(self, batch, segment):
        return np.repeat(np.arange(len(batch)), 2), self.vectors


def test_sums_are_per_user_and_day_and_per_ad_and_day():
    vectors = np.array([[1.0, -1], [2, 0], [3, 1], [4, 0.5]])
    table = summed(rows(["a", "b"]), Reader(vectors), "all", 9 * DAY_MS).to_pylist()
    of_users = {(row["user_id"], row["end_ms"] // DAY_MS): (row["weight"], row["sums"]) for row in table if row["kind"] == "user"}
    assert of_users == {
        ("a", 6): (1_000_000, [1_000_000, -1_000_000]),
        ("a", 7): (2_000_000, [4_000_000, 0]),
        ("b", 6): (1_000_000, [3_000_000, 1_000_000]),
        ("b", 7): (2_000_000, [8_000_000, 1_000_000]),
    }, "5 d ends at 6 d; 6 d is of the day that ends at 7 d"
    of_ads = [(row["ad_hash"], row["end_ms"] // DAY_MS, row["weight"], row["sums"]) for row in table if row["kind"] == "ad"]
    assert of_ads == [(7, 6, 2_000_000, [4_000_000, 0])]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_an_error_and_no_sum(number):
    vectors = np.ones((4, 2))
    vectors[3, 1] = number
    with pytest.raises(DataError, match="what the model says of an impression of user 'b' is not finite"):
        summed(rows(["a", "b"]), Reader(vectors), "all", 9 * DAY_MS)


def test_a_worker_takes_another_reader_for_another_read_out_or_conf(monkeypatch):
    """Two models that embed users alike have one id."""

    class Given:
        digest, model_id = "d" * 64, "alure-dddddddddddd"

        def __init__(self, readout):
            self.readout = readout

    monkeypatch.setattr(representations, "_HELD", {})
    monkeypatch.setattr(representations, "RepresentationReader", lambda *given: given)
    first, other = Given(b"1"), Given(b"2")
    assert worker_reader(first, "hidden", "float32") is worker_reader(Given(b"1"), "hidden", "float32")
    for artifact, layer, conf in ((other, "hidden", "float32"), (first, "ad", "float32"), (first, "hidden", "float64")):
        assert worker_reader(artifact, layer, conf) == (artifact, layer, conf)

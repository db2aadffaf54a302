"""Arrow columns from numpy arrays hold what plain lists and bytes would."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from alure_spark.arrow import by_value, bytes_column, list_column, matrix_column
from alure_spark.errors import DataError


def test_by_value_keeps_every_row_once_and_in_order():
    batch = pa.RecordBatch.from_pydict({"surface": ["feed", "reels", "feed", "stories", "reels"], "n": [0, 1, 2, 3, 4]})
    assert {value: rows["n"].to_pylist() for value, rows in by_value(batch, "surface")} == {"feed": [0, 2], "reels": [1, 4], "stories": [3]}
    assert [(value, rows["n"].to_pylist()) for value, rows in by_value(batch.slice(1, 1), "surface")] == [("reels", [1])]
    assert list(by_value(batch.slice(0, 0), "surface")) == []


def test_lists_are_cut_by_their_counts():
    assert list_column(np.array([1, 2, 3]), np.array([2, 0, 1])).to_pylist() == [[1, 2], [], [3]]
    assert list_column(pa.array(["a", None]), np.array([0, 2])).to_pylist() == [[], ["a", None]]
    assert list_column(np.empty(0), np.empty(0, int)).to_pylist() == []


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_matrix_is_a_list_per_row(rows):
    matrix = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    column = matrix_column(matrix)
    assert column.to_pylist() == matrix.tolist()
    assert column.type == pa.list_(pa.float32())


def test_bytes_are_those_of_the_row():
    values = np.arange(6, dtype=np.int32)
    assert bytes_column(values, "x", np.array([1, 0, 5])).to_pylist() == [values[:1].tobytes(), b"", values[1:].tobytes()]
    pairs = values.reshape(3, 2)
    assert bytes_column(pairs, "x").to_pylist() == [row.tobytes() for row in pairs]
    assert bytes_column(pairs.T, "x").to_pylist() == [row.tobytes() for row in pairs.T], "whatever the order in memory"
    assert bytes_column(pairs, "x", np.array([2, 1])).to_pylist() == [pairs[:2].tobytes(), pairs[2:].tobytes()]
    assert bytes_column(values[:0], "x").to_pylist() == []


def test_more_bytes_than_offsets_can_say_are_refused(monkeypatch):
    monkeypatch.setattr("alure_spark.arrow.BINARY_LIMIT", 7)
    with pytest.raises(DataError, match="'x' has 8 bytes"):
        bytes_column(np.zeros(2, np.int32), "x")

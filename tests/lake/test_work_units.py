"""A unit whose result is a file: made once, whole or not at all."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alure_spark.lake import work_units
from alure_spark.lake.work_units import made_once


def test_a_unit_is_made_once_and_each_has_its_own_result(tmp_path):
    made = []

    def make(name, number):
        def it():
            made.append(name)
            return pa.table({"x": [number], "name": [name]})

        return made_once(str(tmp_path), name, it)

    first = [make("a", 1), make("b", 2)]
    again = [make("a", 7), make("b", 8)]
    assert first == again
    assert [table["x"].to_pylist() for table in again] == [[1], [2]]
    assert made == ["a", "b"]


def test_a_unit_that_fails_leaves_nothing_and_is_made_again(tmp_path):
    def fails():
        raise ValueError("of the model")

    with pytest.raises(ValueError, match="of the model"):
        made_once(str(tmp_path), "a", fails)
    assert not list(tmp_path.iterdir())
    assert made_once(str(tmp_path), "a", lambda: pa.table({"x": [1]}))["x"].to_pylist() == [1]


def test_a_result_that_was_cut_short_is_never_there_under_its_name(tmp_path, monkeypatch):
    """Killed while it is written: the next run makes it again."""

    def killed(rows, sink):
        sink.write(b"PAR1 and no more")
        sink.flush()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work_units.pq, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            made_once(str(tmp_path), "a", lambda: pa.table({"x": [1]}))
    assert not (tmp_path / "a.parquet").exists()
    assert made_once(str(tmp_path), "a", lambda: pa.table({"x": [2]}))["x"].to_pylist() == [2]
    assert pq.read_table(tmp_path / "a.parquet")["x"].to_pylist() == [2]


def test_a_result_that_is_broken_is_an_error_and_is_not_taken_for_missing(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(pa.ArrowInvalid):
        made_once(str(tmp_path), "a", lambda: pa.table({"x": [1]}))

"""Lists of Arrow -> bytes, without Spark."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest

from alure_spark.errors import DataError
from alure_spark.packed.rows import pack


def test_packing_honours_slices_and_null_arrays():
    lists = pa.array([[1], [2, None], None, [], [3]], pa.list_(pa.int64()))
    names = {name: pa.array(["a", "b", "c", "d", "e"]) for name in ("user_id", "country", "segment")}
    batch = pa.RecordBatch.from_pydict({**names, "x": lists, "as_of_ms": pa.array(range(5))}).slice(1)
    packed = pack(batch, {"x": "categorical"}, {}).to_pydict()
    assert packed["user_id"] == [b"b", b"c", b"d", b"e"]
    assert packed["x"] == [b"\2" + b"\0" * 15, b"", b"", b"\3" + b"\0" * 7]
    assert packed["x__present"] == [b"\1\0", b"", b"", b"\1"]


def test_more_bytes_than_an_arrow_column_holds_are_refused(monkeypatch):
    monkeypatch.setattr("alure_spark.arrow.BINARY_LIMIT", 7)
    names = {name: pa.array(["a"]) for name in ("user_id", "country", "segment")}
    with pytest.raises(DataError, match="'x' has 8 bytes in one Arrow batch: lower spark.sql.execution.arrow.maxRecordsPerBatch"):
        pack(pa.RecordBatch.from_pydict({**names, "x": pa.array([[1]]), "as_of_ms": [0]}), {"x": "integer"}, {})


def test_executors_pack_rows_without_torch():
    code = "import sys, alure_spark.packed.rows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

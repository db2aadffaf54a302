"""Columns of Arrow batches from numpy arrays: what Python tasks hand to Spark, without a copy where the memory allows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from .errors import DataError

BINARY_LIMIT = 2**31 - 1  # bytes of one column in one Arrow batch: offsets are 32 bit


def by_value(batch: pa.RecordBatch, name: str) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The batch cut by a column of strings: each value and its rows, which keep their order."""
    encoded = batch.column(name).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    for code, value in enumerate(encoded.dictionary.to_pylist()):
        yield value, batch if len(encoded.dictionary) == 1 else batch.take(pa.array(np.flatnonzero(codes == code)))


def list_column(values: np.ndarray | pa.Array, counts: np.ndarray) -> pa.ListArray:
    """(B,) lists from all values in a row and the length of each list."""
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(counts)].astype(np.int32)), pa.array(values))


def matrix_column(matrix: np.ndarray) -> pa.ListArray:
    """(B, d) numbers as (B,) lists of d."""
    return list_column(matrix.ravel(), np.full(len(matrix), matrix.shape[1]))


def bytes_column(values: np.ndarray, name: str, counts: np.ndarray | None = None) -> pa.BinaryArray:
    """(B,) binary: raw bytes of the values (M, ...), counts[row] or one each. Spark moves them as one piece, a list number by number.

    Raises DataError, which names the column, above BINARY_LIMIT.
    """
    if values.nbytes > BINARY_LIMIT:
        raise DataError(f"'{name}' has {values.nbytes:,} bytes in one Arrow batch: lower spark.sql.execution.arrow.maxRecordsPerBatch")
    counts = np.ones(len(values), np.int64) if counts is None else counts
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]) * values.itemsize * math.prod(values.shape[1:])
    held = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.binary(), len(counts), held)

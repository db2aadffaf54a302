"""The border between Arrow batches, as Spark hands them to Python, and numpy arrays."""

from __future__ import annotations

import faiss
import numpy as np
import pyarrow as pa

from ..arrow import list_column
from ..errors import DataError

FOUND = "array<struct<distance: double, dst_user_id: string>>"  # distance = -weight, so that Spark's own order is best first


def worker_threads() -> None:
    """One faiss thread per task: Spark already runs a task per core (and two threads halved small products)."""
    faiss.omp_set_num_threads(1)


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """A whole group, ordered by user_id: what is computed may not depend on the order in which the shuffle delivered it."""
    return table.sort_by("user_id").combine_chunks().to_batches()[0]


def column(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return batch.column(name).to_numpy(zero_copy_only=False)


def matrix(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A list column whose lists are equally long, as (rows, length). Raises DataError where they are not."""
    lengths = np.diff(batch.column(name).offsets.to_numpy())
    if len(lengths) and lengths.min() != lengths.max():
        held = f"lists of {lengths.min()} to {lengths.max()} numbers"
        raise DataError(f"'{name}' holds {held}; allowed: one length: call usable_embeddings first")
    return batch.column(name).flatten().to_numpy(zero_copy_only=False).reshape(len(lengths), -1 if len(lengths) else 0)


def unpacked(batch: pa.RecordBatch, name: str, kind: type[np.generic]) -> np.ndarray:
    """A column made by `bytes_column`, all rows equally long, as (rows, length) of that dtype."""
    column = batch.column(name)
    if not len(column):
        return np.empty((0, 0), kind)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    values = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return values.view(kind).reshape(len(column), -1)


def found_column(row: np.ndarray, dst_user_id: np.ndarray, weight: np.ndarray, rows: int) -> pa.ListArray:
    """Neighbours of `rows` users as a column of type FOUND; `row` (M,) ascending says whose neighbour each is."""
    # 0.0 - weight, since -0.0 and 0.0 would be different keys of a sort.
    pairs = pa.StructArray.from_arrays([pa.array(0.0 - weight), pa.array(dst_user_id, pa.string())], ["distance", "dst_user_id"])
    return list_column(pairs, np.bincount(row, minlength=rows))

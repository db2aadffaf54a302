"""The row groups of a folder of packed rows (packed/rows.py), which a reader gives in the order it is asked for.

Enters: the folder. Leaves: rows as arrays of bytes. Nothing here is random: order and state are the Loader's, so that all readers give
identical batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ..errors import DataError

Rows = dict[str, np.ndarray]  # column -> (n,) object of bytes, as_of_ms (n,) int64


class Reader(ABC):
    """Row groups of a folder of packed rows, by bucket: `rows` (row_groups,) are their users, from the footers."""

    def __init__(self, folder: str) -> None:
        buckets = {path: int(path.parent.name.removeprefix("bucket=")) for path in Path(folder).absolute().glob("bucket=*/*.parquet")}
        self.files = sorted(buckets, key=lambda path: buckets[path])
        footers = [pq.read_metadata(path) for path in self.files]
        self.rows = [footer.num_rows for footer in footers]
        if not sum(self.rows):
            raise DataError(
                f"there are no packed rows in {folder}: it is written by packed/rows.exported, and lake.scratch must be a folder that "
                "driver and executors both reach"
            )
        if len(set(buckets.values())) < len(footers) or any(footer.num_row_groups != 1 for footer in footers):
            raise DataError(
                f"a bucket in {folder} is not one file of one row group: lower training.export_rows, and export into an empty folder"
            )

    @property
    def row_groups(self) -> int:
        return len(self.files)

    @abstractmethod
    def read(self, order: Sequence[int], columns: Sequence[str]) -> Generator[Rows, None, None]:
        """These columns of the row groups `order`, one after the other; petastorm reads up to 3 ahead in a thread."""

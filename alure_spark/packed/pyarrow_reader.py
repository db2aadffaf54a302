"""Packed rows by pyarrow: one row group after the other."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import pyarrow.parquet as pq

from .row_groups import Reader, Rows
from .rows import file_column


class ArrowReader(Reader):
    def read(self, order: Sequence[int], columns: Sequence[str]) -> Generator[Rows, None, None]:
        for group in order:
            table = pq.ParquetFile(self.files[group]).read(columns=[file_column(name) for name in columns])
            yield {name: table[file_column(name)].to_numpy() for name in columns}

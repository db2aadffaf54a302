"""Where a user id stands on disk: every file is decoded, also those that no table refers to any more."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pyarrow.parquet as pq


def _texts(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        borders = [
            str(value)
            for group in range(file.metadata.num_row_groups)
            for at in range(file.metadata.num_columns)
            if (found := file.metadata.row_group(group).column(at).statistics) is not None and found.has_min_max
            for value in (found.min, found.max)
        ]
        return [*borders, repr(file.read().to_pylist()), repr(file.metadata.metadata)]
    content = path.read_bytes()
    return [(gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", "replace")]


def places(user: str, *folders: Path) -> set[str]:
    """The files, relative to their folder, in which the id stands as a word of its own."""
    word = re.compile(rf"(?<![\w-]){re.escape(user)}(?![\w-])")
    return {
        str(path.relative_to(folder))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and any(word.search(text) for text in _texts(path))
    }

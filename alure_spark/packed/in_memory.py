"""Rows of few users as one batch in the memory of this process: for a model that learns in small steps, whose order is that of time.

Enters: rows in the shape of `training_examples`, a layout and a vocabulary. Leaves: one `JaggedBatch`, users by id.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from pyspark.sql import DataFrame

from ..batches.batch import JaggedBatch
from ..batches.layout import Layout
from ..batches.vocabulary import Vocabulary
from .loader import Loader
from .row_groups import Reader, Rows
from .rows import packed


class CollectedRows(Reader):
    """Packed rows that are in memory already: one row group."""

    def __init__(self, rows: Rows) -> None:
        self.found = rows
        self.rows = [len(rows["user_id"])]

    @property
    def row_groups(self) -> int:
        return 1

    def read(self, order: Sequence[int], columns: Sequence[str]) -> Generator[Rows, None, None]:
        for _ in order:
            yield {name: self.found[name] for name in columns}


def collected(rows: DataFrame, layout: Layout, vocabulary: Vocabulary) -> JaggedBatch | None:
    """All rows as one batch, None where there are none. The order does not depend on that of the rows. Raises as `packed`."""
    table = packed(rows, layout).toArrow()
    if not table.num_rows:
        return None
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    order = np.argsort(columns["user_id"], kind="stable")
    reader = CollectedRows({name: values[order] for name, values in columns.items()})
    return next(Loader(reader, layout, vocabulary, table.num_rows, seed=0).in_order())

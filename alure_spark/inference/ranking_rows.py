"""Rows of the ranking model -> probabilities, the same by whatever way they come: Spark's workers and MLflow's pyfunc end here.

Enters: a `RankingArtifact`, and Arrow rows of users with their impressions or candidates as parallel lists. Leaves: arrays.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from ..batches.decode import Jagged, jagged_batch
from ..errors import DataError, nearest
from ..ranking.artifact import RankingArtifact
from .export import jagged

DECIMALS = 6  # of a probability: the noise of float32 lies below


class ImpressionScorer:
    """A ranking model that is loaded once and scores rows."""

    def __init__(self, artifact: RankingArtifact) -> None:
        self.network, self.vocabulary = artifact.network()
        self.spec, self.model_id = artifact.spec, artifact.model_id
        self.layout = artifact.spec.layout()

    def columns(self) -> dict[str, str]:
        """The list columns that are read -> kind: time_ms, `impression__<field>`, and those of the streams."""
        shown = {name: kind for name, kind in self.layout.impression_columns().items() if name.startswith("impression__")}
        return {"time_ms": "integer"} | shown | self.layout.columns()

    @torch.no_grad()
    def probabilities(self, rows: pa.RecordBatch) -> np.ndarray:
        """(M, tasks) float64 calibrated probabilities of the impressions of the rows' users, one user after the other.

        rows: user_id and columns(). A history at an impression is what was known before its time_ms. Raises DataError on a missing column,
        a wrong length, or times that are not ascending.
        """
        widths, columns = self.layout.column_widths(), {}
        for name, kind in self.columns().items():
            if name not in rows.schema.names:
                raise DataError(f"the rows lack the column '{name}'{nearest(name, rows.schema.names)}, which the ranking model reads")
            columns[name] = jagged(rows.column(name), kind, widths.get(name, 1), name)
        users, times = rows.column("user_id").to_pylist(), columns["time_ms"]
        nothing = Jagged(times.offsets, np.zeros(len(times.values), np.int64))  # what only training reads, and ids that no field is
        for name in self.layout.impression_columns():
            columns.setdefault(name, nothing)
        as_of_ms = np.zeros(len(users), np.int64)  # an impression says itself when it is
        batch = jagged_batch(users, [""] * len(users), as_of_ms, columns, self.layout, self.vocabulary, with_impressions=True)
        return self.network.probabilities(self.network(batch).double()).numpy().round(DECIMALS)

"""Rows of the ranking model -> probabilities and expected values, the same by whatever way they come.

Spark's workers and MLflow's pyfunc end here.

Enters: a `RankingArtifact`, and Arrow rows of users with their impressions or candidates as parallel lists. Leaves: arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import torch

from ..batches.batch import JaggedBatch
from ..batches.decode import Jagged, jagged_batch
from ..config import RankingConfig
from ..config.towers import expected_column
from ..errors import ConfigError, DataError, nearest
from ..ranking.artifact import RankingArtifact
from ..ranking.spec import RankingSpec
from .explored_scores import DECIMALS, Explored, explored
from .export import jagged


def require_fields(artifact: RankingArtifact, ranking: RankingConfig, columns: Collection[str]) -> None:
    """Whether the model can read rows that this conf made, with these columns.

    Raises ConfigError on a field that the conf no longer has, or encodes otherwise; DataError on an array that the rows lack.
    """
    for name, one in artifact.spec.fields.items():
        what = f"{artifact.model_id} reads the field '{name}'"
        if name not in ranking.fields:
            raise ConfigError(
                f"{what}, which ranking.fields lacks{nearest(name, ranking.fields)}: take the conf of its training, or train anew"
            )
        if (now := ranking.fields[name].encoding) != one.encoding:
            raise ConfigError(f"{what} by the encoding {one.encoding}, but ranking.fields.{name} says {now}: run jobs/train_ranking.py")
    for name in artifact.spec.layout().columns():
        if name not in columns:
            raise DataError(
                f"the rows lack the array '{name}'{nearest(name, columns)}, which {artifact.model_id} reads: run jobs/build_sequences.py"
            )
    if ranking.exploration.on and not artifact.exploration:
        raise DataError(
            f"{artifact.model_id} does not say how unsure it is, which ranking.exploration asks for: run jobs/train_ranking.py, or set "
            "ranking.exploration.features=0"
        )


def read_columns(spec: RankingSpec) -> dict[str, str]:
    """The list columns that a model of the spec reads of rows -> kind: time_ms, `impression__<field>`, and those of the streams."""
    layout = spec.layout()
    shown = {name: kind for name, kind in layout.impression_columns().items() if name.startswith("impression__")}
    return {"time_ms": "integer"} | shown | layout.columns()


def score_columns(spec: RankingSpec) -> dict[str, str]:
    """Task -> the column of what the model expects: p_<task>, a probability, or expected_<task> of a value task."""
    return {task: expected_column(task) if task in spec.values else f"p_{task}" for task in spec.tasks}


class ImpressionScorer:
    """A ranking model that is loaded once and scores rows."""

    def __init__(self, artifact: RankingArtifact) -> None:
        self.network, self.vocabulary = artifact.network()
        self.spec, self.model_id = artifact.spec, artifact.model_id
        self.layout = artifact.spec.layout()
        self.posteriors = artifact.posteriors()

    def columns(self) -> dict[str, str]:
        """The list columns that are read -> kind: time_ms, `impression__<field>`, and those of the streams."""
        return read_columns(self.spec)

    @torch.no_grad()
    def predictions(self, rows: pa.RecordBatch) -> np.ndarray:
        """(M, tasks) float64 calibrated probabilities, and expected values of value tasks.

        Of the impressions of the rows' users, one user after the other.

        rows: user_id and columns(). A history at an impression is what was known before its time_ms. Raises DataError on a missing column,
        a wrong length, or times that are not ascending.
        """
        outputs: torch.Tensor = self.network(self._batch(rows))
        return self._predictions(outputs)

    @torch.no_grad()
    def explored(self, rows: pa.RecordBatch, requests: Sequence[str], seed: int) -> tuple[np.ndarray, Explored]:
        """(what `predictions` gives, how unsure the model is of the probabilities). requests (M,): explored_scores.requests_of.

        Raises as there.
        """
        outputs, hidden = self.network.with_hidden(self._batch(rows))
        calibrated = self.network.calibrated(self.network.logits(outputs.double())[:, self.network.binary])
        return self._predictions(outputs), explored(calibrated, hidden, self.posteriors, requests, seed)

    def _predictions(self, outputs: torch.Tensor) -> np.ndarray:
        return self.network.predictions(outputs.double()).numpy().round(DECIMALS)

    def _batch(self, rows: pa.RecordBatch) -> JaggedBatch:
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
        return jagged_batch(users, [""] * len(users), as_of_ms, columns, self.layout, self.vocabulary, with_impressions=True)

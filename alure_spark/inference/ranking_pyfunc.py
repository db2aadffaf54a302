"""The ranking model as MLflow loads it: `loader_module="alure_spark.inference.ranking_pyfunc"`, the data path is an artifact's folder.

Enters: pandas rows of users with their impressions as parallel lists (events/ranking_fields.ranking_rows). Leaves: probabilities and
expected values, by the code that scores candidates inside Spark.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from ..errors import DataError, nearest
from ..ranking.artifact import RankingArtifact
from ..ranking.spec import RankingSpec
from .pyfunc import lists
from .ranking_rows import ImpressionScorer, read_columns, score_columns

REQUIRED = ("user_id", "time_ms")


def optional_columns(spec: RankingSpec) -> tuple[str, ...]:
    """The columns beside REQUIRED that `RankingFunction.predict` reads."""
    return tuple(name for name in read_columns(spec) if name not in REQUIRED)


def outputs(spec: RankingSpec) -> dict[str, str]:
    """Column -> its type for MLflow."""
    return {"user_id": "string"} | dict.fromkeys(score_columns(spec).values(), "double[]")


class RankingFunction:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, scorer: ImpressionScorer) -> None:
        self.scorer = scorer

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """user_id and per task p_<task> or expected_<task> (score_columns; a list, one per impression), one row per row of frame.

        frame: user_id, time_ms, and a list column per `impression__<field>` and array of the streams. Raises DataError on a missing or
        unreadable column.
        """
        for name in ("user_id", *self.scorer.columns()):
            if name not in frame:
                raise DataError(f"the rows lack the column '{name}'{nearest(name, map(str, frame.columns))}")
        columns = {"user_id": pa.array(frame["user_id"], pa.string())}
        columns |= {name: lists(frame[name], kind) for name, kind in self.scorer.columns().items()}
        rows = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        found = self.scorer.predictions(rows)
        ends = rows.column("time_ms").value_lengths().fill_null(0).to_numpy().cumsum()
        result: dict[str, Any] = {"user_id": frame["user_id"]}
        for column, name in enumerate(score_columns(self.scorer.spec).values()):
            result[name] = [found[begin:end, column].tolist() for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
        return pd.DataFrame(result, index=frame.index)


def _load_pyfunc(path: str) -> RankingFunction:
    """By this name MLflow finds the loader. Raises DataError when the folder does not have the digests that it names."""
    return RankingFunction(ImpressionScorer(RankingArtifact.read(path)))

"""The user model as MLflow loads it: `loader_module="alure_spark.inference.pyfunc"`, the data path is an `Artifact`'s folder.

Enters: pandas rows shaped as `user_sequences`. Leaves: their embeddings, by the code that embeds the table, so that a model taken
from the registry and the table agree. In Python alone: `UserEmbedder(Artifact.read(folder), InferenceConfig())`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..batches.history import USER_SHIFT
from ..config import EVERYBODY, InferenceConfig
from ..errors import DataError, nearest
from ..model.artifact import Artifact
from ..model.spec import ModelSpec
from .export import UserEmbedder

VALUES = {"numeric": pa.float64(), "text": pa.string(), "embedding": pa.list_(pa.float32())}  # kind -> type; else integers
NAMED = {"numeric": "numbers", "text": "strings", "embedding": "lists of numbers"}
REQUIRED, OUTPUTS = ("user_id",), {"user_id": "string", "embedding": "float[]"}  # columns of the signature
NO_AS_OF_MS = 2**USER_SHIFT - 1  # after every moment that the model tells apart


def optional_columns(spec: ModelSpec) -> tuple[str, ...]:
    """The columns beside user_id that `UserModelFunction.predict` reads, where they are there."""
    return (*spec.layout().columns(), "as_of", "segment")


class UserModelFunction:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, embedder: UserEmbedder) -> None:
        self.embedder = embedder

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """user_id, embedding (list of D float, zeros for a user of whom nothing is known), one row per row of frame, same index.

        frame: user_id, the list columns of user_sequences for the model's sources, and as_of (UTC where it has no zone) where histories
        are to be checked to end before it, and segment where the model has policies; other columns are left alone. Raises DataError on a
        missing or unreadable column.
        """
        if "user_id" not in frame:
            raise DataError(f"the rows lack the column 'user_id'{nearest('user_id', map(str, frame.columns))}")
        kinds = {name: kind for name, kind in self.embedder.layout.columns().items() if name in frame}
        columns = {"user_id": pa.array(frame["user_id"], pa.string())}
        columns |= {name: lists(frame[name], kind) for name, kind in kinds.items()}
        rows = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        as_of_ms, embedding = _as_of_ms(frame), np.zeros((len(frame), self.embedder.dimension), np.float32)
        for segment, places in self._segments(frame).items():
            embedding[places] = self.embedder.embed_rows(rows.take(pa.array(places)), as_of_ms[places], segment)
        return pd.DataFrame({"user_id": frame["user_id"], "embedding": embedding.tolist()})

    def _segments(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Segment -> places of its rows."""
        if not self.embedder.spec.policies:
            return {EVERYBODY: np.arange(len(frame))}
        if "segment" not in frame or frame["segment"].isna().any():
            raise DataError("the model reads other features of other segments: give each row its 'segment' (user_segments)")
        return {str(segment): np.asarray(places) for segment, places in frame.groupby("segment", sort=True).indices.items()}


def lists(column: pd.Series, kind: str) -> pa.ListArray:
    try:
        return pa.array(column, pa.list_(VALUES.get(kind, pa.int64())), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(f"'{column.name}' does not hold lists of {NAMED.get(kind, 'integers')}: {error}") from None


def _as_of_ms(frame: pd.DataFrame) -> np.ndarray:
    """(B,) int64 epoch milliseconds."""
    if "as_of" not in frame:
        return np.full(len(frame), NO_AS_OF_MS)
    moments = pd.to_datetime(frame["as_of"], utc=True)
    if moments.isna().any():
        raise DataError(f"'as_of' of user '{frame['user_id'][moments.isna()].iloc[0]}' is missing: give a moment, or leave the column out")
    return moments.dt.as_unit("ms").astype(np.int64).to_numpy()


def _load_pyfunc(path: str) -> UserModelFunction:
    """By this name MLflow finds the loader.

    Raises DataError when the folder does not have the digests that it names; MLflow does not tell a loader what the registry says of it,
    which `Tracker.find_model` checks.
    """
    return UserModelFunction(UserEmbedder(Artifact.read(path), InferenceConfig()))

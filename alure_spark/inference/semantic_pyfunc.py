"""A quantiser as MLflow loads it: `loader_module="alure_spark.inference.semantic_pyfunc"`, the data path is a folder of semantic_ids.write.

Enters: pandas rows with a column `embedding`. Leaves: their semantic ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ..errors import DataError, nearest
from ..model import semantic_ids

REQUIRED, OUTPUTS = ("embedding",), {"semantic_id": "long[]"}  # columns of the signature


class SemanticIdFunction:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, model: semantic_ids.SemanticIds) -> None:
        self.model = model

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """semantic_id: a list of codes, one per level, for each row's embedding (list of floats; missing: null), same index.

        Raises DataError where the column is missing or an embedding has another length.
        """
        if "embedding" not in frame:
            raise DataError(f"the rows lack the column 'embedding'{nearest('embedding', map(str, frame.columns))}")
        width = len(self.model.mean)
        there = frame["embedding"].notna()
        given = frame["embedding"][there]
        other = [len(vector) for vector in given if len(vector) != width]
        if other:
            raise DataError(f"an embedding has {other[0]} numbers; this quantiser takes {width}")
        codes = self.model.encode(torch.from_numpy(np.array(given.to_list(), np.float32).reshape(-1, width))).tolist()
        found = pd.Series([None] * len(frame), index=frame.index, dtype=object)
        found[there] = pd.Series(codes, index=given.index, dtype=object)
        return pd.DataFrame({"semantic_id": found})


def _load_pyfunc(path: str) -> SemanticIdFunction:
    """By this name MLflow finds the loader."""
    return SemanticIdFunction(semantic_ids.read(path))

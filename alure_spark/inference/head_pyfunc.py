"""A head of standalone retrieval as MLflow loads it: `loader_module="alure_spark.inference.head_pyfunc"`, of HeadArtifact.write.

Enters: pandas rows with a column `vector`, a user's. Leaves: the queries, whose inner products with the ads' vectors say what to show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, nearest
from ..model.retrieval_head import HeadArtifact, RetrievalHead

REQUIRED, OUTPUTS = ("vector",), {"query": "float[]"}  # columns of the signature


class HeadFunction:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, head: RetrievalHead) -> None:
        self.head = head

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """query: a list of floats for each row's vector, same index. Raises DataError on a missing column or another length."""
        if "vector" not in frame:
            raise DataError(f"the rows lack the column 'vector'{nearest('vector', map(str, frame.columns))}")
        width = len(self.head.mean)
        other = [len(vector) for vector in frame["vector"] if len(vector) != width]
        if other:
            raise DataError(f"a vector has {other[0]} numbers; this head takes {width}")
        queries = self.head.query(np.array(frame["vector"].to_list(), np.float32).reshape(-1, width))
        return pd.DataFrame({"query": list(queries.tolist())}, index=frame.index)


def _load_pyfunc(path: str) -> HeadFunction:
    """By this name MLflow finds the loader."""
    return HeadFunction(HeadArtifact.read(path).head())

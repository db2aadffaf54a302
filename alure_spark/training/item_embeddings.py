"""Given embeddings of items, as a quantizer is trained on them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..config import Config
from ..errors import DataError
from ..lake import timestamp


def item_embeddings(events: DataFrame, config: Config, attribute: str) -> torch.Tensor:
    """(items, D) float32 of what was known before as_of, items in order of their hash's hash; at most semantic_ids.sample of them.

    An item has one embedding here: that of its first event. Raises DataError where there is none, or one is of another length than
    model.embedding_dimensions says.
    """
    width = config.model.embedding_dimensions[attribute]
    known = events.where((F.col("known_at") < timestamp(config.time.as_of_ms)) & F.col(attribute).isNotNull())
    first = F.min(F.struct("known_at", "event_hash", F.col(attribute).alias("embedding")))["embedding"]
    items = known.groupBy("item_hash").agg(first.alias("embedding"))
    rows: pd.DataFrame = items.orderBy(F.xxhash64("item_hash"), "item_hash").limit(config.semantic_ids.sample).toPandas()
    if not len(rows):
        raise DataError(f"no event before time.as_of has a {attribute}: there is nothing to quantise")
    other = [len(vector) for vector in rows["embedding"] if len(vector) != width]
    if other:
        raise DataError(f"{attribute} has {other[0]} numbers in an event; model.embedding_dimensions says {width}")
    return torch.from_numpy(np.stack(rows["embedding"].to_list()).astype(np.float32))

"""Ads -> rows of `item_representations` (LFM4Ads, IR), inside Spark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..arrow import matrix_column
from ..config import InferenceConfig
from ..lake import timestamp
from ..model.artifact import Artifact
from ..tables import ITEM_REPRESENTATIONS
from .representations import worker_reader


def item_rows(ads: DataFrame, artifact: Artifact, inference: InferenceConfig, layer: str, as_of_ms: int) -> DataFrame:
    """Rows of ITEM_REPRESENTATIONS of the ads (ADS rows) that have a flight which began before as_of; the account is of the last."""
    begun = ads.where(F.col("active_from") < timestamp(as_of_ms))
    newest = begun.groupBy("ad_hash").agg(F.max(F.struct("active_from", "account_id"))["account_id"].alias("account_id"))
    model_id = artifact.model_id

    def rim(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        reader = worker_reader(artifact, layer, inference)
        for batch in batches:
            found = reader.items(batch.column("ad_hash"), batch.column("account"))
            as_of = pa.scalar(as_of_ms * 1000, pa.timestamp("us", "UTC"))
            columns = [batch.column("ad_hash"), pa.repeat(as_of, len(found)), pa.repeat(model_id, len(found)), matrix_column(found)]
            yield pa.RecordBatch.from_arrays(columns, names=list(ITEM_REPRESENTATIONS.column_names))

    return newest.select("ad_hash", F.xxhash64("account_id").alias("account")).mapInArrow(rim, ITEM_REPRESENTATIONS.ddl())

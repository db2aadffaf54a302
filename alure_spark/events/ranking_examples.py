"""Labelled impressions with the embedding that served them: what a ranking model trains on (ALURE, section 2.4, embedding logging).

Enters: rows of `training_examples` of one as_of, and `user_embeddings`. Leaves: rows of `ranking_examples`. An embedding serves from
a lag after its as_of on; joined to the future, even by a day, it would tell the ranker what it cannot know when it serves.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from ..config import DEFAULT_TASKS
from ..tables import RANKING_EXAMPLES, TRAINING_EXAMPLES

LABELLED = tuple(column.name for column in TRAINING_EXAMPLES.columns if column.type.startswith("ARRAY"))
SERVED = ("embedding", "embedding_as_of", "model_id")


def ranking_examples(
    examples: DataFrame, embeddings: DataFrame, publish_lag_ms: int, attributes: Iterable[str] = (), tasks: Iterable[str] = DEFAULT_TASKS
) -> DataFrame:
    """One row per impression of `examples`, shaped as RANKING_EXAMPLES, with its tasks and `impression__<name>` for each of `attributes`.

    Of `embeddings` (USER_EMBEDDINGS, any number of as_ofs) each impression gets the user's newest with as_of + publish_lag_ms before
    it, exclusive; null where there is none. One shuffle of both by user; a user's rows are walked once, in time.
    """
    arrays = [*LABELLED, *tasks, *(f"impression__{name}" for name in attributes)]
    shown = examples.select("user_id", "country", "as_of", "segment", F.inline(F.arrays_zip(*arrays)))
    shown = shown.withColumn("_time_ms", F.col("time_ms"))
    served = embeddings.select(
        "user_id",
        (F.unix_millis("as_of") + publish_lag_ms).alias("_time_ms"),
        F.struct("embedding", F.col("as_of").alias("embedding_as_of"), "model_id").alias("_served"),
    )
    # Nulls come first: at equal times an impression is walked before the embedding, which it has not seen.
    walk = shown.unionByName(served, allowMissingColumns=True)
    past = Window.partitionBy("user_id").orderBy("_time_ms", F.col("_served.embedding_as_of")).rowsBetween(Window.unboundedPreceding, 0)
    walked = walk.withColumn("_last", F.last("_served", ignorenulls=True).over(past)).where("time_ms IS NOT NULL")
    fixed = [name for name in RANKING_EXAMPLES.column_names if name not in SERVED]
    return walked.select(*fixed, *(F.col(f"_last.{name}") for name in SERVED), *arrays[len(LABELLED) :])

"""Writes `user_embeddings` of one as_of by a classic method, which is fitted here on the users themselves."""

from __future__ import annotations

from pyspark.sql import DataFrame

from ..config import Config
from ..errors import DataError
from ..lake import JobRun, as_of_scope, timestamp
from . import user_embeddings


def write_embeddings(run: JobRun, config: Config, sequences: DataFrame) -> tuple[dict[str, float | None], str]:
    """(metrics, model_id). sequences: each user's latest row, as the policy of all users leaves it.

    Raises DataError where nobody gets an embedding.
    """
    as_of, streams = config.time.as_of_ms, config.policed_streams
    histories = user_embeddings.item_histories(sequences, [name for name in config.item_sources if name in streams])
    histories = histories.withColumn("as_of", timestamp(as_of)).persist()
    model = user_embeddings.fit(histories, config.embedding)
    rows = run.write("user_embeddings", user_embeddings.embed_users(histories, model, config.embedding), as_of_scope(as_of))
    users = histories.count()
    histories.unpersist()
    if not rows:
        raise DataError(f"none of {users} users got an embedding: their items before as_of tell nothing (all shared by every user)")
    dimension = model.vectors.shape[1]
    metrics = {"users": rows, "users_without_embedding": users - rows, "items": len(model.items), "dimension": dimension}
    return dict(metrics), model.model_id(config.embedding)

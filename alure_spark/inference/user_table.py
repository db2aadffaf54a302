"""Writes `user_embeddings` of one as_of by the registered model, and says what that will take.

Enters: each user's latest row of `user_sequences`, an `Artifact`, a run of the lake. Leaves: rows of the users who need a new embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..config import Config, FeaturePolicy, InferenceConfig
from ..errors import ConfigError, DataError
from ..lake import JobRun, as_of_scope
from ..model.artifact import Artifact
from . import table


def require_trained_before(artifact: Artifact, config: Config) -> None:
    """Raises ConfigError where the model has learnt from what became known after as_of."""
    if artifact.as_of_ms > config.time.as_of_ms:
        raise ConfigError(
            f"model {artifact.model_id} was trained on what became known after time.as_of={config.time.as_of}: it would leak the future; "
            "name an older version by embedding.model, or train one for this as_of"
        )


def policies_of(artifact: Artifact, config: Config) -> dict[str, FeaturePolicy]:
    """Segment that dynamix.threshold makes -> the model's policy for it. Raises ConfigError on a policy for another segment."""
    policies = {segment: artifact.spec.policies.get(segment, FeaturePolicy()) for segment in config.dynamix.segments}
    unknown = sorted(set(artifact.spec.policies) - set(policies))
    if unknown:
        raise ConfigError(f"model {artifact.model_id} has a policy for the segment '{unknown[0]}', which dynamix.threshold does not make")
    return policies


def write_embeddings(
    run: JobRun, config: Config, artifact: Artifact, sequences: DataFrame, cut: Callable[[DataFrame], Mapping[str, DataFrame]]
) -> dict[str, float | None]:
    """Metrics. Only users with new events, or whose newest embedding is of another model, are computed and written.

    sequences: one row per user that has enough items; cut: rows of it -> segment -> the rows of its users, as the policy for the segment
    leaves them. Raises DataError where nobody gets an embedding.
    """
    as_of, spark = config.time.as_of_ms, run.lake.spark
    due = table.recomputed(sequences, run.read_if_published("user_embeddings"), artifact.model_id, as_of)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(config.inference.batch_users))
    rows = run.write("user_embeddings", table.embed_segments(cut(due), artifact, config.inference, as_of), as_of_scope(as_of))
    users, asked = sequences.count(), due.count()
    if asked and not rows:
        raise DataError(f"none of {asked} users got an embedding: the model knows none of their items; run jobs/train_model.py")
    dimension = artifact.spec.views * artifact.spec.item_dimension
    return {"users": rows, "users_without_embedding": asked - rows, "users_kept": users - asked, "dimension": dimension}


def worker_memory(artifact: Artifact, config: InferenceConfig, sequences: DataFrame) -> str:
    """What a Python worker will hold, by the longest user and the mean one of sequences (one row per user)."""
    tokens = sum((F.size(f"{source}__known_at_ms") for source in artifact.spec.sources), F.lit(0))
    longest, mean = sequences.agg(F.max(tokens), F.avg(tokens)).collect()[0]
    return f"embed_users, one worker:\n{table.memory_report(artifact, config, longest or 0, mean)}"

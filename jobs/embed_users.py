"""user_sequences -> user_embeddings at one as_of: by the champion of the ALURE model, or by a classic method fitted here."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.baselines import user_embeddings as classic
from alure_spark.config import EVERYBODY, Config, FeaturePolicy
from alure_spark.errors import ConfigError, DataError, TrackingError
from alure_spark.events.segment_history import in_segments
from alure_spark.events.sequences import select_features
from alure_spark.inference import table
from alure_spark.lake import JobRun, as_of_scope, latest_rows, timestamp
from alure_spark.model.artifact import Artifact
from alure_spark.running import Context, Job, Report
from alure_spark.tracking import ModelVersion


def embed(context: Context, run: JobRun) -> Report:
    config, as_of = context.config, context.config.time.as_of_ms
    streams = config.policed_streams
    sequences = select_features(latest_rows(run.read("user_sequences"), as_of), streams, as_of)
    if config.embedding.method == "alure":
        return _by_model(context, run, sequences)
    histories = classic.item_histories(sequences, [name for name in config.item_sources if name in streams])
    histories = histories.withColumn("as_of", timestamp(as_of)).persist()
    model = classic.fit(histories, config.embedding)
    rows = run.write("user_embeddings", classic.embed_users(histories, model, config.embedding), as_of_scope(as_of))
    users = histories.count()
    histories.unpersist()
    if not rows:
        raise DataError(f"none of {users} users got an embedding: their items before as_of tell nothing (all shared by every user)")
    context.tracker.set_tag("alure.model_id", model.model_id(config.embedding))
    return Report({"users": rows, "users_without_embedding": users - rows, "items": len(model.items), "dimension": model.vectors.shape[1]})


def _by_model(context: Context, run: JobRun, sequences: DataFrame) -> Report:
    """Only users with new events, or whose newest embedding is of another model, are computed and written."""
    config, as_of = context.config, context.config.time.as_of_ms
    artifact = champion(context)
    if artifact.as_of_ms > as_of:
        raise ConfigError(
            f"model {artifact.model_id} was trained on what became known after time.as_of={config.time.as_of}: it would leak the future; "
            "name an older version by embedding.model, or train one for this as_of"
        )
    sequences = sequences.where(classic.distinct_items(artifact.spec.item_sources) >= config.embedding.min_items)
    published = "user_embeddings" in context.lake.published_versions()
    due = table.recomputed(sequences, run.read("user_embeddings") if published else None, artifact.model_id, as_of)
    context.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(config.inference.batch_users))
    parts = {EVERYBODY: due} if not artifact.spec.policies else _by_segment(context, run, due, artifact)
    rows = run.write("user_embeddings", table.embed_segments(parts, artifact, config.inference, as_of), as_of_scope(as_of))
    users, asked = sequences.count(), due.count()
    if asked and not rows:
        raise DataError(f"none of {asked} users got an embedding: the model knows none of their items; run jobs/train_model.py")
    context.tracker.set_tag("alure.model_id", artifact.model_id)
    dimension = artifact.spec.views * artifact.spec.item_dimension
    return Report({"users": rows, "users_without_embedding": asked - rows, "users_kept": users - asked, "dimension": dimension})


def _by_segment(context: Context, run: JobRun, due: DataFrame, artifact: Artifact) -> dict[str, DataFrame]:
    """Segment -> its users' sequences, cut as the model's policy says; columns that it drops are not read from the table."""
    as_of, streams = context.config.time.as_of_ms, context.config.policed_streams
    named = in_segments(due, run.read("user_segments"), as_of)
    policies = {segment: artifact.spec.policies.get(segment, FeaturePolicy()) for segment in context.config.dynamix.segments}
    unknown = sorted(set(artifact.spec.policies) - set(policies))
    if unknown:
        raise ConfigError(f"model {artifact.model_id} has a policy for the segment '{unknown[0]}', which dynamix.threshold does not make")
    return {
        segment: select_features(named.where(F.col("segment") == segment), policy.select(streams), as_of)
        for segment, policy in policies.items()
    }


def champion(context: Context) -> Artifact:
    """The registered model that embedding.model names, its digest checked. Raises TrackingError where there is none."""
    found = registered(context)
    return Artifact.read(found.folder, found.digest)


def registered(context: Context) -> ModelVersion:
    """Where the registered model lies that embedding.model names. Raises TrackingError where there is none."""
    config: Config = context.config
    found = context.tracker.find_model(config.model_name, config.embedding.model)
    if found is None:
        raise TrackingError(
            f"MLflow at {context.tracker.place} has no model {config.model_name} with alias or version '{config.embedding.model}': "
            "run jobs/train_model.py first"
        )
    return found


def explain_memory(context: Context) -> str:
    """What a Python worker will hold, from the sequences that are published."""
    config = context.config
    if config.embedding.method != "alure":
        return f"embed_users: embedding.method {config.embedding.method} needs its item vectors only, 4 bytes x dimension an item"
    artifact = champion(context)
    as_of = config.time.as_of_ms
    sequences = select_features(latest_rows(context.lake.read("user_sequences"), as_of), config.policed_streams, as_of)
    tokens = sum((F.size(f"{source}__known_at_ms") for source in artifact.spec.sources), F.lit(0))
    longest, mean = sequences.agg(F.max(tokens), F.avg(tokens)).collect()[0]
    return f"embed_users, one worker:\n{table.memory_report(artifact, config.inference, longest or 0, mean)}"


JOB = Job(
    "embed_users",
    "one unit-norm embedding per user, by the champion or a classic method",
    ("user_sequences", "user_embeddings"),
    ("user_embeddings",),
    lambda config: as_of_scope(config.time.as_of_ms),
    embed,
    explain_memory,
)

if __name__ == "__main__":
    JOB.main()

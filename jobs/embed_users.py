"""user_sequences -> user_embeddings at one as_of: by the champion of the ALURE model, or by a classic method fitted here."""

from __future__ import annotations

from pyspark.sql import DataFrame

from alure_spark.baselines import user_table as classic_table
from alure_spark.baselines.user_embeddings import distinct_items
from alure_spark.config import EVERYBODY
from alure_spark.events.segment_history import by_segment
from alure_spark.events.sequences import select_features
from alure_spark.inference.registered import champion
from alure_spark.inference.user_table import policies_of, require_trained_before, worker_memory, write_embeddings
from alure_spark.lake import JobRun, as_of_scope, latest_rows
from alure_spark.running import Context, Job, Report


def embed(context: Context, run: JobRun) -> Report:
    config, as_of, streams = context.config, context.config.time.as_of_ms, context.config.policed_streams
    sequences = select_features(latest_rows(run.read("user_sequences"), as_of), streams, as_of)
    if config.embedding.method != "alure":
        metrics, model_id = classic_table.write_embeddings(run, config, sequences)
        context.tracker.set_tag("alure.model_id", model_id)
        return Report(metrics)
    artifact = champion(config, context.tracker)
    require_trained_before(artifact, config)

    def cut(due: DataFrame) -> dict[str, DataFrame]:
        if not artifact.spec.policies:
            return {EVERYBODY: due}
        return by_segment(due, run.read("user_segments"), policies_of(artifact, config), streams, as_of)

    enough = sequences.where(distinct_items(artifact.spec.item_sources) >= config.embedding.min_items)
    metrics = write_embeddings(run, config, artifact, enough, cut)
    context.tracker.set_tag("alure.model_id", artifact.model_id)
    return Report(metrics)


def explain_memory(context: Context) -> str:
    """What a Python worker will hold, from the sequences that are published."""
    config, as_of = context.config, context.config.time.as_of_ms
    if config.embedding.method != "alure":
        return f"embed_users: embedding.method {config.embedding.method} needs its item vectors only, 4 bytes x dimension an item"
    artifact = champion(config, context.tracker)
    sequences = select_features(latest_rows(context.lake.read("user_sequences"), as_of), config.policed_streams, as_of)
    return worker_memory(artifact, config.inference, sequences)


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

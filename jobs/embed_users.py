"""user_sequences -> user_embeddings: the classic baseline (truncated SVD or item2vec), fitted and applied at one as_of."""

from __future__ import annotations

from alure_spark.baselines import user_embeddings
from alure_spark.errors import DataError
from alure_spark.events.sequences import select_features
from alure_spark.lake import JobRun, as_of_scope, latest_rows, timestamp
from jobs.command import Context, Job, Report


def embed(context: Context, run: JobRun) -> Report:
    config = context.config
    as_of = config.time.as_of_ms
    streams = config.policy().select(config.streams)
    sources = [name for name in config.item_sources if name in streams]
    sequences = select_features(latest_rows(run.read("user_sequences"), as_of), streams)
    histories = user_embeddings.item_histories(sequences, sources)
    histories = histories.withColumn("as_of", timestamp(as_of)).persist()
    model = user_embeddings.fit(histories, config.embedding)
    rows = run.write("user_embeddings", user_embeddings.embed_users(histories, model, config.embedding), as_of_scope(as_of))
    users = histories.count()
    histories.unpersist()
    if not rows:
        raise DataError(f"none of {users} users got an embedding: their items before as_of tell nothing (all shared by every user)")
    context.tracker.set_tag("alure.model_id", model.model_id(config.embedding))
    return Report({"users": rows, "users_without_embedding": users - rows, "items": len(model.items), "dimension": model.vectors.shape[1]})


JOB = Job(
    "embed_users",
    "one unit-norm embedding per user from the items of the history",
    ("user_sequences",),
    ("user_embeddings",),
    lambda config: as_of_scope(config.time.as_of_ms),
    embed,
)

if __name__ == "__main__":
    JOB.main()

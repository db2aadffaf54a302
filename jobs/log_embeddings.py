"""training_examples, user_embeddings -> ranking_examples: each labelled impression with the embedding that had been published before it."""

from __future__ import annotations

from pyspark.sql import functions as F

from alure_spark.clock import HOUR_MS
from alure_spark.events.ranking_examples import ranking_examples
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report


def log(context: Context, run: JobRun) -> Report:
    config = context.config
    scope = as_of_scope(config.time.as_of_ms)
    examples, lag = run.read("training_examples").where(scope), config.embedding.publish_lag_ms
    joined = ranking_examples(examples, run.read("user_embeddings"), lag, config.impression_attributes, config.labels.declared)
    rows = run.write("ranking_examples", joined, scope)
    age = (F.col("time_ms") - F.unix_millis("embedding_as_of")) / HOUR_MS
    written = context.lake.read("ranking_examples", run.outputs["ranking_examples"]).where(scope)
    served, hours, models = written.agg(F.count("embedding"), F.avg(age), F.countDistinct("model_id")).collect()[0]
    share = served / rows if rows else None
    return Report({"impressions": rows, "served_share": share, "embedding_age_hours": hours, "models": models})


JOB = Job(
    "log_embeddings",
    "labelled impressions with the embeddings that had been published before them",
    ("training_examples", "user_embeddings"),
    ("ranking_examples",),
    lambda config: as_of_scope(config.time.as_of_ms),
    log,
)

if __name__ == "__main__":
    JOB.main()

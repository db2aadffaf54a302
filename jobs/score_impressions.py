"""ad_candidates -> ranking_scores: the candidates of each user by what a response is worth times how likely it is, at one as_of."""

from __future__ import annotations

from pyspark.sql import functions as F

from alure_spark.events.sequences import select_features
from alure_spark.inference.candidate_scores import USERS_AT_ONCE, scored_candidates
from alure_spark.inference.registered import ranking_champion
from alure_spark.lake import JobRun, as_of_scope, latest_rows
from alure_spark.running import Context, Job, Report


def score(context: Context, run: JobRun) -> Report:
    config, as_of = context.config, context.config.time.as_of_ms
    scope, artifact = as_of_scope(as_of), ranking_champion(config, context.tracker)
    sequences = select_features(latest_rows(run.read("user_sequences"), as_of), config.policed_streams, as_of)
    ads, embeddings = (run.read_if_published(name) for name in ("ads", "user_embeddings"))
    candidates = run.read("ad_candidates").where(scope)
    context.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(USERS_AT_ONCE))
    users = run.write("ranking_scores", scored_candidates(candidates, sequences, ads, embeddings, artifact, config), scope)
    context.tracker.set_tag("alure.ranking_model_id", artifact.model_id)
    written = run.written("ranking_scores").where(scope).select(F.explode("score").alias("score"))
    ranked, mean = written.agg(F.count("*"), F.avg("score")).collect()[0]
    return Report({"users": users, "candidates": ranked, "mean_score": mean})


JOB = Job(
    "score_impressions",
    "the candidates of each user by expected value, the funnel's last stage",
    ("ad_candidates", "user_sequences", "ads", "user_embeddings"),
    ("ranking_scores",),
    lambda config: as_of_scope(config.time.as_of_ms),
    score,
)

if __name__ == "__main__":
    JOB.main()

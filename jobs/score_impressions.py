"""ad_candidates -> ranking_scores: the candidates of each user by what a response is worth times how likely it is, at one as_of.

Where the ranking model reads a ready-made table of impressions: impression_examples -> impression_scores.
"""

from __future__ import annotations

from pyspark.sql import functions as F

from alure_spark.events.ranking_fields import FIELD_TABLES
from alure_spark.events.ranking_tables import candidates_to_score, examples_to_score, representation_ages
from alure_spark.inference import candidate_scores, example_scores
from alure_spark.inference.registered import ranking_champion
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report

ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"


def score(context: Context, run: JobRun) -> Report:
    config, scope = context.config, as_of_scope(context.config.time.as_of_ms)
    artifact = ranking_champion(config, context.tracker)
    context.tracker.set_tag("alure.ranking_model_id", artifact.model_id)
    if config.ranking.ready_made:
        context.spark.conf.set(ROWS, str(example_scores.ROWS_AT_ONCE))
        scored = example_scores.scored_examples(examples_to_score(run, config), artifact, config.ranking)
        return Report({"rows": run.write("impression_scores", scored, scope)})
    context.spark.conf.set(ROWS, str(candidate_scores.USERS_AT_ONCE))
    embeddings_of = str(artifact.facts.get("embedding_model_id", ""))
    ages = {f"age_days.{name}": days for name, days in representation_ages(run, config, embeddings_of).items()}
    rows = candidates_to_score(run, config, embeddings_of)
    ranked = candidate_scores.scored_candidates(rows, artifact, config.ranking)
    users = run.write("ranking_scores", ranked, scope)
    scores = run.written("ranking_scores").where(scope).select(F.explode("score").alias("score"))
    count, mean = scores.agg(F.count("*"), F.avg("score")).collect()[0]
    return Report({"users": users, "candidates": count, "mean_score": mean} | ages)


JOB = Job(
    "score_impressions",
    "the candidates of each user by expected value, the funnel's last stage",
    ("ad_candidates", "user_sequences", *FIELD_TABLES, "impression_examples"),
    ("ranking_scores", "impression_scores"),
    lambda config: as_of_scope(config.time.as_of_ms),
    score,
)

if __name__ == "__main__":
    JOB.main()

"""ad_candidates -> ranking_scores: the candidates of each user by what a response is worth times how likely it is, at one as_of.

Where the ranking model reads a ready-made table of impressions: impression_examples -> impression_scores.
"""

from __future__ import annotations

from pyspark.sql import functions as F

from alure_spark.events.ranking_fields import FIELD_TABLES, FieldTables
from alure_spark.events.sequences import select_features
from alure_spark.inference import candidate_scores, example_scores
from alure_spark.inference.registered import ranking_champion
from alure_spark.lake import JobRun, as_of_scope, latest_rows
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.running import Context, Job, Report

ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"


def score(context: Context, run: JobRun) -> Report:
    artifact = ranking_champion(context.config, context.tracker)
    context.tracker.set_tag("alure.ranking_model_id", artifact.model_id)
    return (_examples if context.config.ranking.ready_made else _candidates)(context, run, artifact)


def _candidates(context: Context, run: JobRun, artifact: RankingArtifact) -> Report:
    config, as_of = context.config, context.config.time.as_of_ms
    scope = as_of_scope(as_of)
    sequences = select_features(latest_rows(run.read("user_sequences"), as_of), config.policed_streams, as_of)
    tables = FieldTables(*(run.read_if_published(name) for name in FIELD_TABLES))
    candidates = run.read("ad_candidates").where(scope)
    context.spark.conf.set(ROWS, str(candidate_scores.USERS_AT_ONCE))
    ranked = candidate_scores.scored_candidates(candidates, sequences, tables, artifact, config)
    users = run.write("ranking_scores", ranked, scope)
    scores = run.written("ranking_scores").where(scope).select(F.explode("score").alias("score"))
    count, mean = scores.agg(F.count("*"), F.avg("score")).collect()[0]
    return Report({"users": users, "candidates": count, "mean_score": mean})


def _examples(context: Context, run: JobRun, artifact: RankingArtifact) -> Report:
    config, as_of = context.config, context.config.time.as_of_ms
    context.spark.conf.set(ROWS, str(example_scores.ROWS_AT_ONCE))
    scored = example_scores.scored_examples(run.read("impression_examples"), artifact, config.ranking, as_of)
    return Report({"rows": run.write("impression_scores", scored, as_of_scope(as_of))})


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

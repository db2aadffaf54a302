"""training_examples (or impression_examples), ads, user_embeddings -> a ranking model in MLflow.

The alias `champion` moves to it when it passes the gate. It may go on from an earlier one (ranking.warm_start), or have the interactions of
another one beside its own (ranking.upstream). Every field is read as it was known before its impression. The encodings are fitted on the
training split, the best epoch and the calibration are chosen on the last labels.validation_days, from which no step learns.
"""

from __future__ import annotations

from alure_spark.events.ranking_fields import FIELD_TABLES
from alure_spark.events.ranking_tables import embedding_model, training_rows
from alure_spark.inference.registered import champion_at, promote, ranking_origin, register_ranking
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.running import Context, Job, Report
from alure_spark.tracking import git_commit
from alure_spark.training import ranking_challenger, ranking_growth, ranking_report, ranking_upstream


def train(context: Context, run: JobRun) -> Report:
    config, tracker, as_of = context.config, context.tracker, context.config.time.as_of_ms
    embeddings_of = embedding_model(run, config)
    rows = training_rows(run, config, embeddings_of)
    registered = champion_at(config, tracker, config.ranking_name)
    champion = RankingArtifact.read(registered.folder, registered.digest) if registered else None
    start = ranking_upstream.start_of(ranking_origin(config, tracker), config, embeddings_of)
    told = start.told() if start else {}
    tracker.log_params({f"train_ranking.{what}": which for what, which in told.items()})
    versions = "-".join([*(f"v{version}" for version in run.inputs.values()), *told.values()])
    name = f"{config.name}-ranking-{versions}-{config.digest()}"
    learnt = ranking_challenger.train(config, rows, champion, name, start)
    facts = {"as_of_ms": as_of, "config_hash": config.digest(), "git_commit": git_commit(), "inputs": dict(run.inputs)}
    facts |= ranking_growth.facts_of(config, embeddings_of) | told
    posteriors = {task: one.posterior for task, one in learnt.posteriors.items()}
    artifact = RankingArtifact.of(learnt.trained.network, learnt.vocabulary, facts, posteriors)
    figures = ranking_report.figures(learnt.trained)  # before the registry is touched: what can fail comes first
    tags = {"alure.model_id": artifact.model_id, "alure.as_of": config.time.as_of, "alure.gate": learnt.verdict.reason}
    version = register_ranking(config, tracker, artifact, tags, f"{name}.model")
    kept = promote(config, tracker, version, config.ranking_name) if learnt.verdict.passed else ""
    ranking_challenger.checkpoint_of(config, name).unlink(missing_ok=True)
    run.content_hashes["ranking_model"] = artifact.digest[:16]
    for epoch, row in enumerate(learnt.trained.curves):
        tracker.log_metrics({f"train_ranking.epoch.{key}": value for key, value in row.items()}, step=epoch + 1)
    said = "".join(f", {what} {which}" for what, which in told.items())
    title = f"{config.ranking_name} version {version} ({artifact.model_id}{said}): {learnt.verdict.reason}{kept}"
    metrics, text = ranking_report.metrics_and_text(learnt.trained, title, learnt.posteriors)
    return Report(metrics | {"warm": float("continues" in told)}, figures, {"train_ranking/summary.txt": text})


JOB = Job(
    "train_ranking",
    "the ranking model, its curves and its place in the registry",
    ("training_examples", "impression_examples", *FIELD_TABLES),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    train,
)

if __name__ == "__main__":
    JOB.main()

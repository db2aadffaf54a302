"""training_examples, vocabularies -> a user model in MLflow; the alias `champion` moves to it when it passes the gate.

Two trainings: one that holds the last labels.validation_days back, for the epoch, the metrics and every gate; with training.refit also one
on everything for as many epochs, which is what gets registered. With training.warm_start it is one: from the champion, on what is new.
"""

from __future__ import annotations

from functools import partial

from alure_spark.events.impressions_where import upstream_rows
from alure_spark.inference.registered import champion_at, earlier_champion, promote, register
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report
from alure_spark.tracking import git_commit
from alure_spark.training import challenger, report, start


def train(context: Context, run: JobRun) -> Report:
    config, tracker, as_of = context.config, context.tracker, context.config.time.as_of_ms
    if config.embedding.method != "alure":
        return Report(texts={"train_model/skipped.txt": f"embedding.method is {config.embedding.method}: there is no model to train"})
    examples = upstream_rows(run.read("training_examples").where(as_of_scope(as_of)), config)
    vocabulary = start.known_vocabulary(run.read("vocabularies"), config)
    origin = earlier_champion(config, tracker) if config.training.warm_start else None
    name = f"{config.name}-v{run.inputs['training_examples']}-{config.digest()}"
    learnt = challenger.train(config, tracker, examples, vocabulary, partial(champion_at, config, tracker), origin, name)
    validation = learnt.validation_metrics()
    facts = {
        "as_of_ms": as_of, "config_hash": config.digest(), "git_commit": git_commit(), "validation": validation,
        "vocabulary_version": run.inputs["vocabularies"], "training_examples_version": run.inputs["training_examples"],
    }  # fmt: skip
    artifact, validated = learnt.artifacts(vocabulary, facts)
    figures = report.figures(learnt.trained)  # before the registry is touched: what can fail comes first
    tags = {"alure.model_id": artifact.model_id, "alure.as_of": config.time.as_of, "alure.gate": learnt.verdict.reason}
    version = register(config, tracker, artifact, validated, tags, f"{name}.model")
    kept = promote(config, tracker, version) if learnt.verdict.passed else ""
    for checkpoint in challenger.checkpoints_of(config.lake, name):
        checkpoint.unlink(missing_ok=True)
    run.content_hashes["model"] = artifact.digest[:16]
    for key, value in tags.items():
        tracker.set_tag(key, value)
    for epoch, row in enumerate(learnt.trained.curves):
        tracker.log_metrics({f"train_model.epoch.{key}": value for key, value in row.items()}, step=epoch + 1)
    title = f"{config.model_name} version {version} ({artifact.model_id}): {learnt.verdict.reason}{kept}"
    metrics, text = report.metrics_and_text(learnt, validation, title)
    return Report(metrics, figures, {"train_model/summary.txt": text})


JOB = Job(
    "train_model",
    "the ALURE user model, its curves and its place in the registry",
    ("training_examples", "vocabularies"),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    train,
)

if __name__ == "__main__":
    JOB.main()

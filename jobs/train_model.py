"""training_examples, vocabularies -> a user model in MLflow; the alias `champion` moves to it when it passes the gate.

Two trainings: one that holds the last labels.validation_days back, for the epoch, the metrics and the gate; and, with
training.refit, one on everything for as many epochs, which is what gets registered. The validated one lies beside it, so that a
later gate compares models that have not seen the split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import functions as F

from alure_spark.baselines.item_vectors import item_views
from alure_spark.baselines.user_embeddings import collect_histories, item_histories
from alure_spark.config import DAY_MS
from alure_spark.errors import ConfigError, TrackingError
from alure_spark.lake import JobRun, as_of_scope, timestamp
from alure_spark.model import semantic_ids
from alure_spark.model.artifact import VALIDATED, Artifact, read_validated
from alure_spark.model.readout import HEADS
from alure_spark.model.user_model import UserModel
from alure_spark.model.vocabulary import Vocabulary
from alure_spark.plots import curves
from alure_spark.tracking import git_commit
from alure_spark.training import gate, loop, metrics, start
from alure_spark.training.loader import Loader, open_reader
from alure_spark.training.rows import exported
from jobs.command import Context, Job, Report


def train(context: Context, run: JobRun) -> Report:
    config, tracker = context.config, context.tracker
    if config.embedding.method != "alure":
        return Report(texts={"train_model/skipped.txt": f"embedding.method is {config.embedding.method}: there is no model to train"})
    as_of = config.time.as_of_ms
    border = as_of - int(config.labels.validation_days * DAY_MS)
    examples = run.read("training_examples").where(as_of_scope(as_of)).where("segment = 'all'")
    known: pd.DataFrame = run.read("vocabularies").where(F.col("first_seen") <= timestamp(as_of)).toPandas()
    space, hash, row = (known[name].to_numpy() for name in ("space", "hash", "row"))
    vocabulary = Vocabulary.from_arrays(space, hash, row, config.vocabulary.hash_buckets)
    quantizers = {name: _quantizer(context, name) for name in config.model.semantic_ids}
    spec, layout = start.spec_of(config, vocabulary, quantizers), start.layout_of(config)

    def new_model(before_ms: int | None) -> UserModel:
        histories = collect_histories(item_histories(examples, spec.item_sources, before_ms), config.embedding)
        views = item_views(histories, config.model.views, config.embedding.dimension, config.embedding.window, config.embedding.seed)
        return start.new_model(spec, vocabulary, views.items, list(views.vectors), views.idf, views.users, quantizers)

    name = f"{config.name}-v{run.inputs['training_examples']}-{config.digest()}"
    checkpoints = [Path(config.lake.scratch) / f"{name}{part}.checkpoint" for part in ("", ".refit")]
    with exported(examples, layout, config.lake.scratch, config.training.export_rows, name) as folder:
        reader = open_reader(config.training.reader, folder)
        loader = Loader(reader, layout, vocabulary, config.training.batch_users, config.training.seed)
        when = loop.calendar(loader, spec.item_sources, border, as_of)
        trained = loop.train(new_model(border), loader, when, config.training, checkpoints[0])
        found = trained.validation
        registered = tracker.find_model(config.model_name)
        champion = read_validated(registered.folder, registered.digest) if registered else None
        verdict = gate.judge(champion, found, loader, when, config.training)
        model = trained.model
        if config.training.refit:
            everything = loop.calendar(loader, spec.item_sources, as_of, as_of)
            model = loop.refit(new_model(None), loader, trained, everything, config.training, checkpoints[1])
        flops = loop.flops_per_user(model, next(loader.in_order()))
    result = {f"validation.{key}": value for key, value in found.losses.items()} | loop.label_metrics(trained.model, found)
    facts = {
        "as_of_ms": as_of, "config_hash": config.digest(), "git_commit": git_commit(), "validation": result,
        "vocabulary_version": run.inputs["vocabularies"], "training_examples_version": run.inputs["training_examples"],
    }  # fmt: skip
    validated = Artifact.of(trained.model, vocabulary, facts)
    artifact = Artifact.of(model, vocabulary, facts | {"validated": validated.digest})
    tags = {"alure.model_id": artifact.model_id, "alure.as_of": config.time.as_of, "alure.gate": verdict.reason}
    written = artifact.write(Path(config.lake.scratch) / f"{name}.model")
    if config.training.refit:
        validated.write(written / VALIDATED)
    version = tracker.log_model(config.model_name, written, "alure_spark.inference.pyfunc", artifact.digest, tags)
    if verdict.passed:
        tracker.promote(config.model_name, version)
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)
    run.content_hashes["model"] = artifact.digest[:16]
    for key, value in tags.items():
        tracker.set_tag(key, value)
    for epoch, row in enumerate(trained.curves):
        tracker.log_metrics({f"train_model.epoch.{key}": value for key, value in row.items()}, step=epoch + 1)

    text = f"{config.model_name} version {version} ({artifact.model_id}): {verdict.reason}\n" + "\n".join(
        f"{key} {'-' if value is None else f'{value:.4f}'}" for key, value in sorted(result.items())
    )
    parameters = sum(p.numel() for p in model.parameters())
    result |= {"best_epoch": trained.best_epoch + 1, "steps": trained.steps, "flops_per_user": flops, "parameters": parameters}
    return Report(result, _figures(trained), {"train_model/summary.txt": text})


def _quantizer(context: Context, attribute: str) -> semantic_ids.SemanticIds:
    """The registered quantiser of the attribute. Raises TrackingError where there is none, ConfigError where it is of another length."""
    config = context.config
    name, width = config.semantic_ids_name(attribute), config.model.embedding_dimensions[attribute]
    found = context.tracker.find_model(name)
    if found is None:
        raise TrackingError(f"MLflow at {config.tracking.uri} has no model {name}: run jobs/train_semantic_ids.py first")
    quantizer = semantic_ids.read(found.folder, found.digest)
    if len(quantizer.mean) != width:
        raise ConfigError(f"model.embedding_dimensions.{attribute} is {width}, but {name} was trained on {len(quantizer.mean)} numbers")
    return quantizer


def _figures(trained: loop.Trained) -> dict:
    """Loss per epoch and objective; calibration of the heads that have both labels."""
    epochs = np.arange(1, len(trained.curves) + 1)
    names = sorted({key for row in trained.curves for key in row if "." in key})
    lines = {name: (epochs, np.array([row.get(name, np.nan) for row in trained.curves])) for name in names}
    figures = {"train_model/losses.png": curves(lines, "epoch", "nats")}
    found, bins = trained.validation, {}
    predicted = loop.probabilities(trained.model, found)
    for column, head in enumerate(HEADS):
        labels = found.labels[:, column]
        if len(labels) and 0 < labels.mean() < 1:
            curve = metrics.calibration_curve(labels, predicted[:, column], weights=found.weights)
            bins[head] = (curve.probability, curve.label)
    return figures | ({"train_model/calibration.png": curves(bins, "predicted", "observed", diagonal=True)} if bins else {})


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

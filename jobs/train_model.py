"""training_examples, vocabularies -> a user model in MLflow; the alias `champion` moves to it when it passes the gate.

Two trainings: one that holds the last labels.validation_days back, for the epoch, the metrics and the gate; and, with
training.refit, one on everything for as many epochs, which is what gets registered. The validated one lies beside it, so that a
later gate compares models that have not seen the split. With training.warm_start it is one: from the champion, on what is new to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.baselines.item_vectors import item_views
from alure_spark.baselines.user_embeddings import collect_histories, item_histories, longest_per_user
from alure_spark.clock import parse_time
from alure_spark.config import EVERYBODY
from alure_spark.errors import ConfigError, DataError, TrackingError
from alure_spark.inference import pyfunc
from alure_spark.lake import JobRun, as_of_scope, make_private, scratch_folder, timestamp, workspace
from alure_spark.model import semantic_ids
from alure_spark.model.artifact import VALIDATED, Artifact, read_validated
from alure_spark.model.readout import HEADS
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from alure_spark.model.vocabulary import Vocabulary
from alure_spark.plots import curves
from alure_spark.running import Context, Job, Report
from alure_spark.tracking import Columns, git_commit
from alure_spark.training import gate, loop, metrics, parallel, recurring, start
from alure_spark.training.loader import Segments, segment_loaders


@dataclass(frozen=True)
class _Learnt:
    """What a training ends in."""

    model: UserModel
    trained: loop.Trained
    verdict: gate.Verdict
    metrics: dict[str, float | None]  # beside those of the validation
    facts: dict[str, Any]
    validated: UserModel | None = None  # the twin that has not seen the validation split, where the model has


def train(context: Context, run: JobRun) -> Report:
    config, tracker = context.config, context.tracker
    if config.embedding.method != "alure":
        return Report(texts={"train_model/skipped.txt": f"embedding.method is {config.embedding.method}: there is no model to train"})
    as_of = config.time.as_of_ms
    examples = run.read("training_examples").where(as_of_scope(as_of))
    vocabulary = known_vocabulary(context, run)
    origin = _origin(context) if config.training.warm_start else None
    quantizers = {name: quantizer_of(context, name, origin) for name in config.model.semantic_ids}
    spec = start.spec_of(config, vocabulary, quantizers)

    def new_model(before_ms: int | None) -> UserModel:
        return model_maker(context, examples, spec, vocabulary, quantizers, before_ms)(spec)

    name = f"{config.name}-v{run.inputs['training_examples']}-{config.digest()}"
    scratch = workspace(config.lake)
    checkpoints = [Path(scratch) / f"{name}{part}.checkpoint" for part in ("", ".refit")]
    obstacle = "" if origin is None else recurring.obstacle(origin.spec, spec)
    with segment_loaders(examples, start.layout_of(config), vocabulary, config.training, scratch, name) as packed:
        if spec.policies and [loader.segment for loader in packed.loaders] == [EVERYBODY]:
            raise DataError("feature_policy is for segments, but training_examples is not told apart by them: run jobs/build_sequences.py")
        loader = packed.decoding(spec, vocabulary)
        if origin is not None and not obstacle:
            learnt = _continued(context, spec, origin, new_model(None), loader, checkpoints[0])
        else:
            registered = tracker.find_model(config.model_name)
            judged = read_validated(registered.folder, registered.digest) if registered else None
            learnt = _anew(context, spec, judged, new_model, loader, checkpoints)
        flops = loop.flops_per_user(learnt.model, next(loader.in_order()))
    found = learnt.trained.validation
    result = {f"validation.{key}": value for key, value in found.losses.items()} | loop.label_metrics(learnt.trained.model, found)
    facts = {
        "as_of_ms": as_of, "config_hash": config.digest(), "git_commit": git_commit(), "validation": result,
        "vocabulary_version": run.inputs["vocabularies"], "training_examples_version": run.inputs["training_examples"],
    } | learnt.facts  # fmt: skip
    validated = Artifact.of(learnt.validated, vocabulary, facts) if learnt.validated else None
    figures = _figures(learnt.trained)  # before the registry is touched: what can fail comes first
    artifact = Artifact.of(learnt.model, vocabulary, facts | ({"validated": validated.digest} if validated else {}))
    tags = {"alure.model_id": artifact.model_id, "alure.as_of": config.time.as_of, "alure.gate": learnt.verdict.reason}
    with scratch_folder(scratch, f"{name}.model") as folder:
        written = artifact.write(folder)
        if validated:
            validated.write(written / VALIDATED)
        make_private(folder)
        columns = Columns(pyfunc.REQUIRED, pyfunc.optional_columns(artifact.spec), pyfunc.OUTPUTS)
        version = tracker.log_model(config.model_name, written, pyfunc.__name__, artifact.digest, tags, columns)
    if learnt.verdict.passed:
        tracker.promote(config.model_name, version)
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)
    run.content_hashes["model"] = artifact.digest[:16]
    for key, value in tags.items():
        tracker.set_tag(key, value)
    for epoch, row in enumerate(learnt.trained.curves):
        tracker.log_metrics({f"train_model.epoch.{key}": value for key, value in row.items()}, step=epoch + 1)

    parameters = sum(p.numel() for p in learnt.model.parameters())
    result |= learnt.metrics
    text = f"{config.model_name} version {version} ({artifact.model_id}): {learnt.verdict.reason}\n" + "\n".join(
        [f"trained anew: {obstacle}"] * bool(obstacle)
        + [f"{key} {'-' if value is None else f'{value:.4f}'}" for key, value in sorted(result.items())]
    )
    result |= {"best_epoch": learnt.trained.best_epoch + 1, "steps": learnt.trained.steps}
    result |= {"flops_per_user": flops, "parameters": parameters, "warm": float("continues" in learnt.facts)}
    return Report(result, figures, {"train_model/summary.txt": text})


def known_vocabulary(context: Context, run: JobRun) -> Vocabulary:
    """What has a row at as_of."""
    until = timestamp(context.config.time.as_of_ms)
    known: pd.DataFrame = run.read("vocabularies").where(F.col("first_seen") <= until).toPandas()
    space, hash, row = (known[name].to_numpy() for name in ("space", "hash", "row"))
    return Vocabulary.from_arrays(space, hash, row, context.config.vocabulary.hash_buckets)


def model_maker(
    context: Context,
    examples: DataFrame,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    quantizers: Mapping[str, semantic_ids.SemanticIds],
    before_ms: int | None,
) -> Callable[[ModelSpec], UserModel]:
    """Makes models before training, whose item vectors are of the histories before before_ms (None: of all), factorised once."""
    config = context.config
    histories = longest_per_user(item_histories(examples, spec.item_sources, before_ms))
    collected = collect_histories(histories, config.embedding)
    views = item_views(collected, config.model.views, config.embedding.dimension, config.embedding.window, config.embedding.seed)

    def new(its: ModelSpec) -> UserModel:
        return start.new_model(its, vocabulary, views.items, list(views.vectors), views.idf, views.users, quantizers)

    return new


def _anew(
    context: Context,
    spec: ModelSpec,
    champion: Artifact | None,
    new_model: Callable[[int | None], UserModel],
    loader: Segments,
    checkpoints: list[Path],
) -> _Learnt:
    """From the start: with the last days held back, and (training.refit) once more on everything. champion: the validated one."""
    config, as_of = context.config, context.config.time.as_of_ms
    border = as_of - config.labels.validation_ms
    when = loop.calendar(loader, spec.item_sources, border, as_of)
    processes = config.training.processes
    trained = parallel.together(processes, loop.train, new_model(border), loader, when, config.training, checkpoints[0])
    verdict = gate.judge(champion, trained.validation, start.layout_of(config), loader.decoding, when, config.training)
    if not config.training.refit:
        return _Learnt(trained.model, trained, verdict, {}, {})
    everything = loop.calendar(loader, spec.item_sources, as_of, as_of)
    model = parallel.together(processes, loop.refit, new_model(None), loader, trained, everything, config.training, checkpoints[1])
    return _Learnt(model, trained, verdict, {}, {}, validated=trained.model)


def _continued(context: Context, spec: ModelSpec, champion: Artifact, today: UserModel, loader: Segments, checkpoint: Path) -> _Learnt:
    """From the champion, with the impressions that are new to it; how well it foretold them all is measured first."""
    config, as_of = context.config, context.config.time.as_of_ms
    since = recurring.new_since(config.labels, champion.as_of_ms)
    before, vocabulary = champion.model()
    cuts = loop.calendar(loader, spec.item_sources, as_of, as_of).cuts_ms
    when = recurring.SplitByUser(cuts, as_of, as_of)

    def new(share: float) -> gate.Decoding:
        return lambda spec, theirs: recurring.NewImpressions(loader.decoding(spec, theirs), since, share, as_of)

    foretold = loop.evaluate(before, new(1.0)(champion.spec, vocabulary), when.validation(), config.training.objectives)
    metrics = {f"progressive.{key}": value for key, value in loop.label_metrics(before, foretold).items()}
    share = config.training.holdout_users
    mine = recurring.NewImpressions(loader, since, share, as_of)
    model, processes = recurring.grown(before, today), config.training.processes
    trained = parallel.together(processes, loop.train, model, mine, when, config.training, checkpoint, warm=True)
    verdict = gate.judge(champion, trained.validation, start.layout_of(config), new(share), when, config.training)
    verdict = gate.calibrated(verdict, trained.carried, config.training)
    metrics |= {"new_impressions": float((foretold.weights > 0).sum())}
    return _Learnt(trained.model, trained, verdict, metrics, {"continues": champion.model_id})


def _origin(context: Context) -> Artifact | None:
    """The newest registered model that passed its gate and was trained for an earlier as_of; a rerun goes on from where the run did."""
    config, passed = context.config, list[tuple[int, int]]()
    for version, tags in context.tracker.model_versions(config.model_name).items():
        if tags.get("alure.gate", "").startswith("champion") and "alure.as_of" in tags:
            passed.append((parse_time(tags["alure.as_of"]), int(version)))
    earlier = [one for one in passed if one[0] < config.time.as_of_ms]
    found = context.tracker.find_model(config.model_name, str(max(earlier)[1])) if earlier else None  # of a day run again the last
    return Artifact.read(found.folder, found.digest) if found else None


def quantizer_of(context: Context, attribute: str, origin: Artifact | None) -> semantic_ids.SemanticIds:
    """The registered quantiser of the attribute; a model that goes on keeps its own, so that no code moves.

    Raises TrackingError where there is none, ConfigError where it is of another length.
    """
    config = context.config
    if origin is not None and attribute in origin.spec.quantizers:
        return cast(semantic_ids.SemanticIds, origin.encoder()[0].quantizers[attribute])
    name, width = config.semantic_ids_name(attribute), config.model.embedding_dimensions[attribute]
    found = context.tracker.find_model(name)
    if found is None:
        raise TrackingError(f"MLflow at {context.tracker.place} has no model {name}: run jobs/train_semantic_ids.py first")
    quantizer = semantic_ids.read(found.folder, found.digest)
    if len(quantizer.mean) != width:
        raise ConfigError(f"model.embedding_dimensions.{attribute} is {width}, but {name} was trained on {len(quantizer.mean)} numbers")
    return quantizer


def _figures(trained: loop.Trained) -> dict:
    """Loss per epoch and objective; calibration of the heads that have both labels among what is weighed."""
    epochs = np.arange(1, len(trained.curves) + 1)
    names = sorted({key for row in trained.curves for key in row if "." in key})
    lines = {name: (epochs, np.array([row.get(name, np.nan) for row in trained.curves])) for name in names}
    figures = {"train_model/losses.png": curves(lines, "epoch", "nats")}
    found, bins = trained.validation, {}
    predicted = loop.probabilities(trained.model, found)
    for column, head in enumerate(HEADS):
        if found.has_both(column):
            curve = metrics.calibration_curve(found.labels[:, column], predicted[:, column], weights=found.weights)
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

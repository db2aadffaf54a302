"""training_examples, user_sequences -> what each of the conf's `experiments` gains in normalized entropy and costs in time, in MLflow.

An experiment is a policy per segment (conf, `feature_policy`) and the experiment that it is compared with: removal of weak attributes,
or addition of sources and attributes, for some segments or for all (DynamiX, Tables 2 and 3). Every experiment is trained with each of
dynamix.compare_seeds and judged on the validation split; experiments that leave the same are trained once. The MLflow run of the job is
the parent, every training a child. No table is written and no model registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from alure_spark.analysis import policies
from alure_spark.config import Config, FeaturePolicy
from alure_spark.errors import ConfigError
from alure_spark.events.segment_history import in_segments
from alure_spark.events.sequences import select_features
from alure_spark.inference.export import UserEmbedder
from alure_spark.lake import JobRun, as_of_scope, latest_rows, make_private, scratch_folder, workspace
from alure_spark.model.artifact import Artifact
from alure_spark.model.decode import Layout
from alure_spark.model.readout import HEADS
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from alure_spark.model.vocabulary import Vocabulary
from alure_spark.plots import bars, curves
from alure_spark.running import Context, Job, Report
from alure_spark.training import loop, start
from alure_spark.training.loader import Segments, segment_loaders
from alure_spark.training.rows import for_spark

TIMED_USERS = 20_000  # of a segment, whose embedding is timed at most
INFERENCE_ROUNDS = 4  # per round of training steps, which take some fifteen times as long


def compare(context: Context, run: JobRun) -> Report:
    config, as_of = context.config, context.config.time.as_of_ms
    experiments = {name: dict(experiment.policy) for name, experiment in config.experiments.items()}
    against = {name: experiment.against for name, experiment in config.experiments.items() if experiment.against}
    if not against:
        raise ConfigError("experiments names nothing to compare: give each its policy per segment, and `against` another experiment")
    examples = run.read("training_examples").where(as_of_scope(as_of))
    vocabulary = start.known_vocabulary(run.read("vocabularies"), config)
    quantizers = {name: start.quantizer_of(config, context.tracker, name) for name in config.model.semantic_ids}
    spec = replace(start.spec_of(config, vocabulary, quantizers), policies={})
    border = as_of - config.labels.validation_ms
    new_model = start.model_maker(config, examples, spec, vocabulary, quantizers, border)
    layout, name = start.layout_of(config), f"policies-{run.run_id}"
    with segment_loaders(examples, layout, vocabulary, config.training, workspace(config.lake), name) as packed:
        segments = policies.require_segments(packed, experiments)
        when = loop.calendar(packed.decoding(spec, vocabulary), spec.item_sources, border, as_of)
        judged: dict[str, list[policies.Judged]] = {}
        lines: dict[str, list[list[dict[str, float]]]] = {}
        twins = {
            name: next(one for one in experiments if policies.reads_alike(spec, experiments[one], its, segments))
            for name, its in experiments.items()
        }
        first: UserModel | None = None
        for name in dict.fromkeys(twins.values()):
            trained = [_trained(context, name, seed, spec, vocabulary, packed, new_model, when) for seed in config.dynamix.compare_seeds]
            judged[name], lines[name] = [policies.Judged.of(one) for one in trained], [one.curves for one in trained]
            first = trained[0].model if first is None else first
        assert first is not None
        judged, lines = ({name: found[twin] for name, twin in twins.items()} for found in (judged, lines))  # type: ignore[assignment]
        gains = policies.ne_gains(judged, against)
        cells = policies.cells_of(spec, experiments, segments)
        works = policies.training_works(first, packed, experiments, set(cells.values()), when, config.training)
        seconds, users = policies.timed_rounds(works, config.dynamix.compare_rounds, config.training.seed)
        speeds = policies.speeds("training", seconds, users, cells, against)
    speeds += _inference(context, run, first, vocabulary, experiments, cells, against)
    return _report(gains, speeds, lines, against)


def _trained(
    context: Context,
    name: str,
    seed: int,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    packed: Segments,
    new_model: Any,
    when: loop.Calendar,
) -> loop.Trained:
    """A model of the experiment, trained with the seed, in an MLflow run of its own."""
    config, tracker = context.config, context.tracker
    policy = dict(config.experiments[name].policy)
    its = replace(spec, policies=policy, config=replace(spec.config, seed=seed))
    training = replace(config.training, seed=seed)
    mine: Config = replace(config, feature_policy=policy, model=its.config, training=training)
    with tracker.child(f"{name} seed {seed}", mine) as child:
        trained = loop.train(new_model(its), packed.decoding(its, vocabulary, seed), when, training)
        child.log_params({"experiment": name, "seed": seed, "policy": policy})
        for epoch, row in enumerate(trained.curves):
            child.log_metrics({f"epoch.{key}": value for key, value in row.items()}, step=epoch + 1)
        child.log_metrics(loop.label_metrics(trained.model, trained.validation))
    return trained


def _inference(
    context: Context,
    run: JobRun,
    model: UserModel,
    vocabulary: Vocabulary,
    experiments: Mapping[str, Mapping[str, FeaturePolicy]],
    cells: Mapping[tuple[str, str], policies.Cell],
    against: Mapping[str, str],
) -> list[policies.Speed]:
    """Times the embedding of user_sequences at as_of, segment by segment, from Parquet files of one row group per batch."""
    config, as_of = context.config, context.config.time.as_of_ms
    named = in_segments(latest_rows(run.read("user_sequences"), as_of), run.read("user_segments"), as_of)
    sequences = select_features(named, config.policed_streams, as_of)
    files: dict[str, Path] = {}
    with scratch_folder(workspace(config.lake), f"sequences-{run.run_id}") as folder:
        for segment in dict.fromkeys(cell.segment for cell in cells.values()):
            rows = sequences.where(sequences["segment"] == segment).limit(TIMED_USERS)
            rows.coalesce(1).write.parquet(for_spark(f"{folder}/{segment}"))
            make_private(folder)
            (file,) = Path(folder, segment).glob("*.parquet")
            if pq.read_metadata(file).num_rows:
                files[segment] = file
        readers = {}
        for cell in dict.fromkeys(cell for cell in cells.values() if cell.segment in files):
            spec = replace(model.spec, policies=dict(experiments[cell.experiment]))
            twin = UserModel(spec)
            twin.load_state_dict(model.state_dict())
            embedder = UserEmbedder(Artifact.of(twin, vocabulary, {}), config.inference)
            columns = ["user_id", *Layout.of(spec, segment=cell.segment).columns()]
            readers[cell] = columns, partial(_embed, embedder, as_of, cell.segment)
        works = policies.reading_works(readers, files, config.inference.batch_users)
        seconds, users = policies.timed_rounds(works, INFERENCE_ROUNDS * config.dynamix.compare_rounds, config.training.seed)
    kept = {key: cell for key, cell in cells.items() if cell in works}
    return policies.speeds("inference", seconds, users, kept, against)


def _embed(embedder: UserEmbedder, as_of_ms: int, segment: str, rows: pa.RecordBatch) -> np.ndarray:
    return embedder.embed_rows(rows, np.full(rows.num_rows, as_of_ms), segment)


def _report(
    gains: list[policies.Gain],
    speeds: list[policies.Speed],
    lines: Mapping[str, list[list[dict[str, float]]]],
    against: Mapping[str, str],
) -> Report:
    metrics: dict[str, float | None] = {}
    for gain in gains:
        metrics |= {f"{gain.experiment}.{gain.segment}.{gain.head}.{key}": getattr(gain, key) for key in ("ne", "gain", "low", "high")}
    for speed in speeds:
        name = f"{speed.experiment}.{speed.segment}.{speed.stage}"
        metrics |= {f"{name}.{key}": getattr(speed, key) for key in ("users_per_second", "gain", "low", "high")}
    figures = {}
    for head in HEADS:
        total = [gain for gain in gains if gain.segment == policies.TOTAL and gain.head == head]
        if not total:
            continue
        found = policies.convergence(lines, against, head)
        series = {name: (part["epoch"].to_numpy(), part["gain"].to_numpy()) for name, part in found.groupby("experiment", sort=False)}
        figures[f"compare_policies/convergence_{head}.png"] = curves(series, "epoch", f"{head}: NE gain on validation")
        heights = {gain.experiment: gain.gain for gain in total}
        spread = {gain.experiment: (gain.low, gain.high) for gain in total}
        figures[f"compare_policies/gain_{head}.png"] = bars(heights, spread, f"{head}: NE gain", total[0].experiment)
    for stage in dict.fromkeys(speed.stage for speed in speeds):
        total = [speed for speed in speeds if speed.segment == policies.TOTAL and speed.stage == stage]  # type: ignore[misc]
        heights = {speed.experiment: speed.gain for speed in total}
        spread = {speed.experiment: (speed.low, speed.high) for speed in total}
        figures[f"compare_policies/{stage}.png"] = bars(heights, spread, f"{stage}: more users per CPU second", total[0].experiment)
    tables = [pd.DataFrame(rows).to_string(index=False, float_format="%.4f") for rows in (gains, speeds)]
    return Report(metrics, figures, {"compare_policies/tables.txt": "\n\n".join(tables)})


JOB = Job(
    "compare_policies",
    "normalized entropy and throughput of the conf's experiments, per segment and in total",
    ("training_examples", "vocabularies", "user_sequences", "user_segments"),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    compare,
)

if __name__ == "__main__":
    JOB.main()

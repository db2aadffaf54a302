"""Trains the experiments of a conf and measures them: what each gains in normalized entropy, and costs in time.

Enters: `training_examples`, `vocabularies`, `user_sequences` and `user_segments` of one as_of, a run of the lake. Leaves: gains, speeds and
learning curves, and an MLflow run below the job's for every training. The arithmetic is policies.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..batches.vocabulary import Vocabulary
from ..config import Config, FeaturePolicy
from ..errors import ConfigError
from ..events.segment_history import in_segments
from ..events.sequences import select_features
from ..inference.export import UserEmbedder
from ..lake import JobRun, as_of_scope, latest_rows, make_private, scratch_folder, workspace
from ..model.artifact import Artifact
from ..model.spec import ModelSpec
from ..model.user_model import UserModel
from ..packed.rows import for_spark
from ..packed.segments import Segments, segment_loaders
from ..tracking import Tracker
from ..training import start, user_evaluation, user_training
from . import policies

TIMED_USERS = 20_000  # of a segment, whose embedding is timed at most
INFERENCE_ROUNDS = 4  # per round of training steps, which take some fifteen times as long
Curves = Mapping[str, list[list[dict[str, float]]]]  # experiment -> per seed, per epoch: objective -> nats


class Comparison(NamedTuple):
    """What the experiments came to."""

    gains: list[policies.Gain]
    speeds: list[policies.Speed]
    curves: Curves
    against: Mapping[str, str]  # experiment -> what it is compared with


def compare(run: JobRun, config: Config, tracker: Tracker) -> Comparison:
    """Trains every experiment with each of dynamix.compare_seeds; experiments that leave the same are trained once.

    Raises ConfigError where no experiment names another one, DataError where the rows are not split by the segments of a policy.
    """
    experiments = {name: dict(experiment.policy) for name, experiment in config.experiments.items()}
    against = {name: experiment.against for name, experiment in config.experiments.items() if experiment.against}
    if not against:
        raise ConfigError("experiments names nothing to compare: give each its policy per segment, and `against` another experiment")
    as_of = config.time.as_of_ms
    examples = run.read("training_examples").where(as_of_scope(as_of))
    vocabulary = start.known_vocabulary(run.read("vocabularies"), config)
    quantizers = {name: start.quantizer_of(config, tracker, name) for name in config.model.semantic_ids}
    spec = replace(start.spec_of(config, vocabulary, quantizers), policies={})
    border = as_of - config.labels.validation_ms
    new_model = start.model_maker(config, examples, spec, vocabulary, quantizers, border)
    layout, name = spec.layout(impressions=True), f"policies-{run.run_id}"
    with segment_loaders(examples, layout, vocabulary, config.training, workspace(config.lake), name) as packed:
        segments = policies.require_segments(packed, experiments)
        when = user_training.calendar(packed.decoding(spec, vocabulary), spec.item_sources, border, as_of)
        evaluated: dict[str, list[policies.Predictions]] = {}
        lines: dict[str, list[list[dict[str, float]]]] = {}
        twins = {
            name: next(one for one in experiments if policies.reads_alike(spec, experiments[one], its, segments))
            for name, its in experiments.items()
        }
        first: UserModel | None = None
        for name in dict.fromkeys(twins.values()):
            trained = [
                _trained(config, tracker, name, seed, spec, vocabulary, packed, new_model, when) for seed in config.dynamix.compare_seeds
            ]
            evaluated[name], lines[name] = [policies.Predictions.of(one) for one in trained], [one.curves for one in trained]
            first = trained[0].model if first is None else first
        assert first is not None
        evaluated, lines = ({name: found[twin] for name, twin in twins.items()} for found in (evaluated, lines))  # type: ignore[assignment]
        gains = policies.ne_gains(evaluated, against)
        cells = policies.cells_of(spec, experiments, segments)
        works = policies.training_works(first, packed, experiments, set(cells.values()), when, config.training)
        seconds, users = policies.timed_rounds(works, config.dynamix.compare_rounds, config.training.seed)
        speeds = policies.speeds("training", seconds, users, cells, against)
    speeds += _inference(run, config, first, vocabulary, experiments, cells, against)
    return Comparison(gains, speeds, lines, against)


def _trained(
    config: Config,
    tracker: Tracker,
    name: str,
    seed: int,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    packed: Segments,
    new_model: Callable[[ModelSpec], UserModel],
    when: user_training.Calendar,
) -> user_training.Trained:
    """A model of the experiment, trained with the seed, in an MLflow run of its own."""
    policy = dict(config.experiments[name].policy)
    its = replace(spec, policies=policy, config=replace(spec.config, seed=seed))
    training = replace(config.training, seed=seed)
    mine: Config = replace(config, feature_policy=policy, model=its.config, training=training)
    with tracker.child(f"{name} seed {seed}", mine) as child:
        trained = user_training.train(new_model(its), packed.decoding(its, vocabulary, seed), when, training)
        child.log_params({"experiment": name, "seed": seed, "policy": policy})
        for epoch, row in enumerate(trained.curves):
            child.log_metrics({f"epoch.{key}": value for key, value in row.items()}, step=epoch + 1)
        child.log_metrics(user_evaluation.label_metrics(trained.model, trained.validation))
    return trained


def _inference(
    run: JobRun,
    config: Config,
    model: UserModel,
    vocabulary: Vocabulary,
    experiments: Mapping[str, Mapping[str, FeaturePolicy]],
    cells: Mapping[tuple[str, str], policies.Cell],
    against: Mapping[str, str],
) -> list[policies.Speed]:
    """Times the embedding of user_sequences at as_of, segment by segment, from Parquet files of one row group per batch."""
    as_of = config.time.as_of_ms
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
            columns = ["user_id", *spec.layout(segment=cell.segment).columns()]
            readers[cell] = columns, partial(_embed, embedder, as_of, cell.segment)
        works = policies.reading_works(readers, files, config.inference.batch_users)
        seconds, users = policies.timed_rounds(works, INFERENCE_ROUNDS * config.dynamix.compare_rounds, config.training.seed)
    kept = {key: cell for key, cell in cells.items() if cell in works}
    return policies.speeds("inference", seconds, users, kept, against)


def _embed(embedder: UserEmbedder, as_of_ms: int, segment: str, rows: pa.RecordBatch) -> np.ndarray:
    return embedder.embed_rows(rows, np.full(rows.num_rows, as_of_ms), segment)

"""A challenger: a model that is trained anew or goes on from the champion, and whether it may take the champion's place.

Enters: `training_examples` of one as_of, the vocabulary, the champion to go on from. Leaves: the model, its validated twin, the verdict of
the gate and what the training says of itself. What may become a model is written by training/start.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame

from ..batches.vocabulary import Vocabulary
from ..config import EVERYBODY, Config, LakeConfig
from ..errors import DataError
from ..lake import workspace
from ..model.artifact import Artifact, read_validated
from ..model.spec import ModelSpec
from ..model.user_model import UserModel
from ..packed.segments import Segments, segment_loaders
from ..tracking import ModelVersion, Tracker
from . import gate, parallel, recurring, start, user_evaluation, user_training
from .left_out import LEFT_OUT, left_out, require_left_out


@dataclass(frozen=True)
class Challenger:
    """What a training ends in."""

    model: UserModel
    trained: user_training.Trained
    verdict: gate.Verdict
    metrics: dict[str, float | None]  # beside those of the validation
    facts: dict[str, Any]
    validated: UserModel | None = None  # the twin that has not seen the validation split, where the model has
    obstacle: str = ""  # why it does not go on from the champion, though it was asked to
    flops_per_user: float = 0.0

    def validation_metrics(self) -> dict[str, float | None]:
        """Losses and metrics of the heads on the validation split."""
        found = self.trained.validation
        losses: dict[str, float | None] = {f"validation.{key}": value for key, value in found.losses.items()}
        return losses | user_evaluation.label_metrics(self.trained.model, found)

    def artifacts(self, vocabulary: Vocabulary, facts: dict[str, Any]) -> tuple[Artifact, Artifact | None]:
        """The model and its validated twin as they go to disk. Raises DataError where a weight is not finite."""
        facts = facts | self.facts
        validated = Artifact.of(self.validated, vocabulary, facts) if self.validated else None
        return Artifact.of(self.model, vocabulary, facts | ({"validated": validated.digest} if validated else {})), validated


def checkpoints_of(lake: LakeConfig, name: str) -> list[Path]:
    """Where a training of that name leaves its state, so that it goes on after it was killed: the first one, and the one on everything."""
    return [Path(workspace(lake)) / f"{name}{part}.checkpoint" for part in ("", ".refit")]


def train(
    config: Config,
    tracker: Tracker,
    examples: DataFrame,
    vocabulary: Vocabulary,
    champion: Callable[[], ModelVersion | None],
    origin: Artifact | None,
    name: str,
) -> Challenger:
    """From origin where the conf allows it to go on, else anew, to be compared with what champion() finds.

    examples: rows of `training_examples` of as_of, packed under `name`.

    Raises DataError where feature_policy is for segments and the examples are not split by them, ConfigError where origin has learnt from
    what transfer.upstream leaves out.
    """
    if origin is not None:
        require_left_out(origin.model_id, origin.facts, config, "train once with training.warm_start: false")
    quantizers = {attribute: start.quantizer_of(config, tracker, attribute, origin) for attribute in config.model.semantic_ids}
    spec = start.spec_of(config, vocabulary, quantizers)

    def new_model(before_ms: int | None) -> UserModel:
        return start.model_maker(config, examples, spec, vocabulary, quantizers, before_ms)(spec)

    scratch, checkpoints = workspace(config.lake), checkpoints_of(config.lake, name)
    obstacle = "" if origin is None else recurring.obstacle(origin.spec, spec)
    with segment_loaders(examples, spec.layout(impressions=True), vocabulary, config.training, scratch, name) as packed:
        if spec.policies and [loader.segment for loader in packed.loaders] == [EVERYBODY]:
            raise DataError("feature_policy is for segments, but training_examples is not told apart by them: run jobs/build_sequences.py")
        loader = packed.decoding(spec, vocabulary)
        if origin is not None and not obstacle:
            found = _continued(config, spec, origin, new_model(None), loader, checkpoints[0])
        else:
            registered = champion()
            validated = read_validated(registered.folder, registered.digest) if registered else None
            found = _anew(config, spec, validated, new_model, loader, checkpoints)
        flops = user_evaluation.flops_per_user(found.model, next(loader.in_order()))
    return replace(found, facts=found.facts | {LEFT_OUT: left_out(config)}, obstacle=obstacle, flops_per_user=flops)


def _anew(
    config: Config,
    spec: ModelSpec,
    champion: Artifact | None,
    new_model: Callable[[int | None], UserModel],
    loader: Segments,
    checkpoints: list[Path],
) -> Challenger:
    """From the start: with the last days held back, and (training.refit) once more on everything. champion: the validated one."""
    as_of = config.time.as_of_ms
    border = as_of - config.labels.validation_ms
    when = user_training.calendar(loader, spec.item_sources, border, as_of)
    trained = parallel.together(config.training, user_training.train, new_model(border), loader, when, config.training, checkpoints[0])
    verdict = gate.decide(champion, trained.validation, spec.layout(impressions=True), loader.decoding, when, config.training)
    if not config.training.refit:
        return Challenger(trained.model, trained, verdict, {}, {})
    everything = user_training.calendar(loader, spec.item_sources, as_of, as_of)
    model = parallel.together(
        config.training, user_training.refit, new_model(None), loader, trained, everything, config.training, checkpoints[1]
    )
    return Challenger(model, trained, verdict, {}, {}, validated=trained.model)


def _continued(config: Config, spec: ModelSpec, champion: Artifact, today: UserModel, loader: Segments, checkpoint: Path) -> Challenger:
    """From the champion, with the impressions that are new to it; how well it foretold them all is measured first."""
    as_of = config.time.as_of_ms
    since = recurring.new_since(config.labels, champion.as_of_ms)
    before, vocabulary = champion.model()
    cuts = user_training.calendar(loader, spec.item_sources, as_of, as_of).cuts_ms
    when = recurring.SplitByUser(cuts, as_of, as_of)

    def new(share: float) -> gate.Decoding:
        return lambda spec, theirs: recurring.NewImpressions(loader.decoding(spec, theirs), since, share, as_of)

    foretold = user_evaluation.evaluate(before, new(1.0)(champion.spec, vocabulary), when.validation(), config.training.objectives)
    metrics = {f"progressive.{key}": value for key, value in user_evaluation.label_metrics(before, foretold).items()}
    share = config.training.holdout_users
    mine = recurring.NewImpressions(loader, since, share, as_of)
    model = recurring.grown(before, today)
    trained = parallel.together(config.training, user_training.train, model, mine, when, config.training, checkpoint, warm=True)
    verdict = gate.decide(champion, trained.validation, spec.layout(impressions=True), new(share), when, config.training)
    verdict = gate.calibrated(verdict, trained.carried, config.training)
    metrics |= {"new_impressions": float((foretold.weights > 0).sum())}
    return Challenger(trained.model, trained, verdict, metrics, {"continues": champion.model_id})

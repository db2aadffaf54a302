"""A ranking model trained for time.as_of, and whether it may take the champion's place.

Enters: `ranking_rows`, the champion, with ranking.warm_start the earlier model to go on from, with ranking.upstream the one whose
interactions it has too. Leaves: the model, its vocabulary, the verdict of the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..batches.epochs import Batches
from ..batches.vocabulary import Vocabulary
from ..config import Config, TrainingConfig
from ..lake import workspace
from ..packed.segments import Segments, segment_loaders
from ..ranking.artifact import RankingArtifact
from . import ranking_growth, ranking_model, ranking_start
from .gate import Verdict
from .online import BEGAN_AS
from .ranking_exploration import FittedPosterior, fitted_posteriors
from .ranking_growth import Earlier
from .ranking_upstream import Upstream


@dataclass(frozen=True)
class RankingChallenger:
    """What a training ends in."""

    trained: ranking_model.TrainedRanking
    vocabulary: Vocabulary
    verdict: Verdict
    posteriors: Mapping[str, FittedPosterior]  # task -> how unsure it is; empty where ranking.exploration is off


def checkpoint_of(config: Config, name: str) -> Path:
    """Where a training of that name leaves its state, so that it goes on after it was killed."""
    return Path(workspace(config.lake)) / f"{name}.checkpoint"


def train(
    config: Config,
    rows: DataFrame,
    champion: RankingArtifact | None,
    name: str,
    start: Earlier | Upstream | None = None,
) -> RankingChallenger:
    """rows: `ranking_rows` of as_of, packed under `name`. The weights are a function of rows and conf, and of start, where it is given.

    start: a model to go on from, or one whose interactions the new one has too. Raises DataError where a split or a task has nothing to
    learn from, ConfigError where the conf does not fit, also not to start.
    """
    draft = ranking_start.draft_spec(config, start.spec if isinstance(start, Upstream) else None)
    if isinstance(start, Upstream):
        start.require_fits(draft, config.ranking)
    shown = rows.where(F.size("time_ms") > 0)
    vocabulary = ranking_start.fitted_vocabulary(shown, config, start.vocabulary if start else None)
    training, checkpoint = training_of(config), checkpoint_of(config, name)
    if training.threads:
        torch.set_num_threads(training.threads)
    with segment_loaders(shown, draft.layout(), vocabulary, training, workspace(config.lake), name) as packed:
        if isinstance(start, Earlier):
            loader: Batches = packed.decoding(draft, vocabulary)
            spec = ranking_growth.grown_spec(start.artifact.spec, draft, vocabulary)
            network = ranking_growth.continued(start, spec, loader, config.ranking.seed)
            loader = ranking_growth.NewImpressions(packed.decoding(spec, vocabulary), start.learnt_until_ms)
            trained = ranking_model.train(network, loader, config.ranking, checkpoint)
        else:
            trained = trained_afresh(config, packed, vocabulary, checkpoint, start)
        posteriors = fitted_posteriors(trained.network, packed.decoding(trained.network.spec, vocabulary), config.ranking.exploration)
        verdict = decide(champion, trained, packed, config)
    return RankingChallenger(trained, vocabulary, verdict, posteriors)


def trained_afresh(
    config: Config, packed: Segments, vocabulary: Vocabulary, checkpoint: Path | None = None, upstream: Upstream | None = None
) -> ranking_model.TrainedRanking:
    """The model of the conf by its ranking.seed, on packed rows that have its fields and may have others."""
    draft = ranking_start.draft_spec(config, upstream.spec if upstream else None)
    loader = packed.decoding(draft, vocabulary, config.ranking.seed)
    spec = ranking_model.fitted_spec(draft, loader, vocabulary)
    network = ranking_model.new_network(spec, loader, config.ranking.seed)
    if upstream:
        upstream.copy_into(network, vocabulary)
    return ranking_model.train(network, packed.decoding(spec, vocabulary, config.ranking.seed), config.ranking, checkpoint)


def training_of(config: Config) -> TrainingConfig:
    """How rows are packed and read for the ranking model."""
    return replace(config.training, batch_users=config.ranking.batch_users, seed=config.ranking.seed)


def decide(champion: RankingArtifact | None, trained: ranking_model.TrainedRanking, packed: Segments, config: Config) -> Verdict:
    """Passed unless the champion's validation loss is lower by more than ranking.gate of it, as training/gate.decide.

    The loss of a value task may be about 0, by the unit of the values: it counts as at least a nat per value above 0.
    """
    if champion is None:
        return Verdict(True, "champion: there was none")
    if champion.as_of_ms > config.time.as_of_ms:
        return Verdict(False, f"not champion: {champion.model_id} was trained up to a later time")
    if BEGAN_AS in champion.facts:
        return Verdict(True, f"champion: {champion.model_id} has learnt from the impressions that validate, so it cannot be compared")
    ours = trained.network.spec.served()
    if set(champion.spec.tasks) != set(ours.tasks) or set(champion.spec.values) != set(ours.values):
        return Verdict(True, f"champion: {champion.model_id} predicts {', '.join(champion.spec.tasks)}, so it cannot be compared")
    theirs, there = champion.spec.layout(), ours.layout()
    columns = [layout.columns() | layout.impression_columns() for layout in (theirs, there)]
    if not columns[0].items() <= columns[1].items() or not theirs.column_widths().items() <= there.column_widths().items():
        return Verdict(True, f"champion: {champion.model_id} reads other fields, so it cannot be compared")
    if config.ranking.exploration.on and not champion.exploration:
        return Verdict(True, f"champion: {champion.model_id} does not say how unsure it is, as ranking.exploration wants")
    network, vocabulary = champion.network()
    found = ranking_model.evaluate(network, packed.decoding(champion.spec, vocabulary))
    before, loss = sum(found.losses.values()), sum(trained.validation.losses[task] for task in ours.tasks)
    sizes = (found.values[task].size if task in found.values else loss for task, loss in found.losses.items())
    passed = loss <= before + config.ranking.gate * sum(sizes)
    return Verdict(passed, f"{'' if passed else 'not '}champion: validation loss {loss:.4f}, {champion.model_id} has {before:.4f}")

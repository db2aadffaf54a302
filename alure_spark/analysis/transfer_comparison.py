"""What is each representation of the user model worth to a downstream task? A model with it beside one without, on the same rows (LFM4Ads).

Enters: the rows of each downstream task (transfer_rows.py). Leaves: the normalized entropy of each variant and its gain over `none`, and
an MLflow run below the job's for each. Nothing is published or registered. What a variant reads is said by transfer_variants.py, gains are
those of policies.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from ..batches.vocabulary import Vocabulary
from ..config import Config
from ..errors import DataError
from ..lake import JobRun, scratch_folder, workspace
from ..packed.segments import Segments, segment_loaders
from ..tracking import Tracker
from ..training import ranking_challenger, ranking_model, ranking_start
from .policies import Predictions, ne_gains
from .transfer_rows import DownstreamRows, rows_of_all
from .transfer_variants import NONE, twins


class Result(NamedTuple):
    """One variant on one label of a downstream task, evaluated on its validation rows."""

    downstream: str
    task: str
    variant: str
    parameters: int
    training_rows: int  # impressions
    validation_rows: int
    validation_users: int
    seeds: int
    ne: float | None  # normalized entropy, the mean over the seeds; None where the labels are of one class
    gain: float | None  # the mean over the seeds of 1 - ne / that of `none`; None for `none`, and where no interval can be given
    low: float | None  # 95 % interval over users and seeds
    high: float | None


class Comparison(NamedTuple):
    """What the variants came to, and on which rows."""

    results: list[Result]
    rows: list[DownstreamRows]


class _Trained(NamedTuple):
    """One variant, a model per seed."""

    predictions: list[Predictions]
    parameters: int
    figures: list[dict[str, float | None]]  # per seed


def compare(run: JobRun, config: Config, tracker: Tracker) -> Comparison:
    """Trains a model per downstream task, variant and seed; variants that read the same are trained once.

    Raises ConfigError and DataError before the first training, as transfer_rows.rows_of_all.
    """
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    name = f"transfer-{run.run_id}"
    with scratch_folder(workspace(config.lake), name) as folder:
        rows = rows_of_all(run, config, tracker, folder)
        return Comparison([one for part in rows for one in _compared(part, tracker, f"{name}-{part.name}")], rows)


def _compared(part: DownstreamRows, tracker: Tracker, name: str) -> list[Result]:
    config = part.variants[NONE]
    own = next(iter(part.rows))
    vocabulary = ranking_start.fitted_vocabulary(part.rows[own], part.full[own])
    first, trained = twins(part.variants), dict[str, _Trained]()
    results = []
    with ExitStack() as folders:
        packed = {}
        for layer, rows in part.rows.items():
            layout, training = ranking_start.draft_spec(part.full[layer]).layout(), ranking_challenger.training_of(config)
            packing = segment_loaders(rows, layout, vocabulary, training, workspace(config.lake), f"{name}-{layer}")
            packed[layer] = folders.enter_context(packing)
        for variant, its in part.variants.items():
            with tracker.child(f"{part.name} {variant}", its) as child:
                if (twin := first[variant]) == variant:
                    trained[variant] = _trained(its, packed[its.transfer.layer], vocabulary)
                mine = trained[twin]
                child.log_params({"downstream": part.name, "variant": variant, "trained_as": twin, "fields": ", ".join(its.ranking.fields)})
                for seed, figures in zip(config.transfer.compare_seeds, mine.figures, strict=True):
                    child.log_metrics({f"{key}.seed_{seed}": value for key, value in figures.items()})
                lines = results_of(part, variant, mine, trained[NONE])
                for one in lines:
                    child.log_metrics({f"{one.task}.{key}": getattr(one, key) for key in ("ne", "gain", "low", "high")})
                child.log_metrics({"parameters": float(mine.parameters)})
            results += lines
    return results


def _trained(config: Config, packed: Segments, vocabulary: Vocabulary) -> _Trained:
    models: list[ranking_model.TrainedRanking] = []
    for seed in config.transfer.compare_seeds:
        its: Config = replace(config, ranking=replace(config.ranking, seed=seed))
        models.append(ranking_challenger.trained_afresh(its, packed, vocabulary))
    parameters = sum(models[0].network.parameter_counts().values())
    return _Trained([Predictions.of_ranking(one) for one in models], parameters, [one.metrics() for one in models])


def results_of(part: DownstreamRows, variant: str, mine: _Trained, none: _Trained) -> list[Result]:
    """One line per task whose label is 0 or 1."""
    results = []
    for column, task in enumerate(mine.predictions[0].tasks):
        models = [[one.of_task(column) for one in of.predictions] for of in (mine, none)]
        seeds, learnt, validated = len(mine.predictions), part.train, part.validation
        rows = learnt.impressions, validated.impressions, validated.users
        results.append(Result(part.name, task, variant, mine.parameters, *rows, seeds, *paired(models[0], models[1], variant)))
    return results


def paired(mine: Sequence[Predictions], none: Sequence[Predictions], variant: str) -> tuple[float | None, ...]:
    """(ne, gain, low, high) of one task: predictions per seed, of the same impressions in the same order.

    Without an interval there is no gain: where the labels are of one class, or too many draws of users have one class only.
    """
    if not all(np.array_equal(one.users, other.users) and np.array_equal(one.labels, other.labels) for one in mine for other in none):
        raise DataError("two variants were evaluated on different impressions: the table they were read from has changed meanwhile")
    everyone = np.ones(len(mine[0].users))
    try:
        ne = float(np.mean([one.ne(0, everyone) for one in mine]))
    except DataError:  # one class only
        return None, None, None, None
    if variant == NONE:
        return ne, None, None, None
    evaluated: Mapping[str, Sequence[Predictions]] = {variant: mine, NONE: none}
    try:
        (gain,) = ne_gains(evaluated, {variant: NONE}, by_segment=False)
    except DataError:  # too few users with a response
        return ne, None, None, None
    return gain.ne, gain.gain, gain.low, gain.high

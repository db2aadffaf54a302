"""How the user model is trained: what it may learn when, where its read-out starts, once with a validation split and once on everything.

Everything that is drawn (order of users, dropout, the moment of the neighbour objective) is a pure function of (seed, epoch,
step), so a run that was killed goes on from its last checkpoint and ends in the same weights as an undisturbed one. What comes
after the border belongs to validation: no loss of training looks past it. `refit` then learns once more from all that is known,
for as many epochs as validation found best: the last days are what tomorrow looks like most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .. import metrics
from ..batches.batch import JaggedBatch
from ..batches.epochs import Batches
from ..config import ObjectiveConfig, TrainingConfig
from ..errors import DataError
from ..model.parallel import ALONE, Alone
from ..model.user_model import Moments, UserModel
from .logistic import fit_logistic
from .loop import Observer, fit
from .plan import Plan, warmup_cosine
from .user_evaluation import Evaluation, calibrate, evaluate, label_metrics

CUTS = 64  # moments that the neighbour objective draws from
CUT_RANGE = (0.4, 0.95)  # quantiles of the event times before the border between which they lie
SAMPLED_BATCHES = 8  # batches from which times and the scale of facts are read off


@dataclass(frozen=True)
class Calendar:
    """What may be learnt when, epoch ms."""

    cuts_ms: tuple[int, ...]  # moments before the border
    border_ms: int  # training ends and validation begins; at end_ms nothing is held back
    end_ms: int  # as_of

    @property
    def holds_back(self) -> bool:
        """Whether there is a validation split."""
        return self.border_ms < self.end_ms

    def training(self, seed: int, epoch: int, step: int) -> Moments:
        """The moments of a training step."""
        cut = np.random.default_rng([seed, epoch, step, 1]).choice(np.asarray(self.cuts_ms))
        return Moments(int(cut), self.border_ms, validation=False if self.holds_back else None)

    def validation(self) -> Moments:
        return Moments(self.border_ms, self.end_ms, validation=True, from_ms=self.border_ms if self.holds_back else 0)


@dataclass
class Trained:
    """A model with the weights of its best epoch, calibrated."""

    model: UserModel
    best_epoch: int
    steps: int
    curves: list[dict[str, float]]  # one per epoch: train.<objective>, validation.<objective>
    validation: Evaluation  # of the best epoch's weights
    carried: dict[str, float | None]  # label_metrics under the calibration that the model came with


def calendar(loader: Batches, item_sources: Sequence[str], border_ms: int, end_ms: int) -> Calendar:
    """Cuts at even quantiles of the times of the first users' item events. Raises DataError when nothing was known before the border."""
    times = []
    for _, batch in zip(range(SAMPLED_BATCHES), loader.in_order(), strict=False):
        for source in item_sources:
            known = batch.sources[source].known_at_ms.numpy()
            times.append(known[known < border_ms])
    known = np.concatenate(times)
    if not len(known):
        raise DataError(
            "the training split is empty: no event of embedding.sources was known before the validation time; "
            "lower labels.validation_days or choose a later time.as_of"
        )
    cuts = np.quantile(known, np.linspace(*CUT_RANGE, CUTS), method="higher")
    return Calendar(tuple(int(cut) for cut in cuts), border_ms, end_ms)


def fit_readout(model: UserModel, loader: Batches, everything: bool = False) -> None:
    """Standardise the read-out's facts and start its linear part where a logistic regression on them stands.

    On the training impressions (`everything`: on all) of the first batches. The ridge is chosen by cross-validation over users;
    a head with too few labels of either kind for that starts at its base rate. The network beside it starts at 0 and adds what
    the facts do not say: a few steps of gradient descent alone leave the heads far from what these counts already tell.
    """
    rows, labels, weights, users, known = [], [], [], [], 0
    for _, batch in zip(range(SAMPLED_BATCHES), loader.in_order(), strict=False):
        if batch.impressions is not None:
            shown = batch.impressions.select(~batch.impressions.validation | everything)
            rows.append(model.readout.facts(replace(batch, impressions=shown)))
            labels.append(shown.labels_of(model.spec.tasks))
            weights.append(shown.weight)
            users.append(shown.users() + known)
        known += len(batch.user_ids)
    if not rows or sum(map(len, rows)) < 2:
        return
    facts = torch.cat(rows)
    model.readout.fit_scale(facts)
    x = model.readout.standardised(facts).double().numpy()
    y, weight, user = (torch.cat(part).double().numpy() for part in (labels, weights, users))
    usable = np.isfinite(weight) & np.isfinite(x).all(axis=1)  # what is not stops the first step, with a sentence
    x, y, weight, user = x[usable], y[usable], weight[usable], user[usable]
    linear = model.readout.wide
    with torch.no_grad():
        for column in range(len(model.spec.tasks)):
            coefficients, bias = fit_logistic(x, y[:, column], weight, user)
            linear.weight[column] = torch.as_tensor(coefficients)
            linear.bias[column] = bias


def plan_of(config: TrainingConfig, tasks: Sequence[str], steps: int) -> Plan:
    """The plan of a training for the tasks, of so many steps per epoch: item tables learn slower, what weighs events faster."""
    return Plan(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        seed=config.seed,
        weight_decay=config.weight_decay,
        learning_rate_shares={"items": config.item_learning_rate_share, "pooling": config.pooling_learning_rate_share},
        loss_weights=config.objectives.weights(tasks),
        schedule=warmup_cosine(config.epochs * steps),
        clip_norm=config.clip_norm,
        patience=config.patience,
        checkpoint_steps=config.checkpoint_steps,
        rate_setting="training.learning_rate",
        clip_setting="training.clip_norm",
        needed="no user has a labelled impression or a later item before the validation time",
    )


class _TimedBatches:
    """The batches of a loader, each with the moments of its step: the arguments of UserModel.losses."""

    def __init__(self, loader: Batches, when: Calendar, config: TrainingConfig, processes: Alone) -> None:
        self.loader, self.when, self.config, self.processes = loader, when, config, processes

    @property
    def steps(self) -> int:
        return self.loader.steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[JaggedBatch, Moments, ObjectiveConfig, Alone]]:
        for step, batch in enumerate(self.loader.batches(epoch, start), start):
            yield batch, self.when.training(self.config.seed, epoch, step), self.config.objectives, self.processes


def train(
    model: UserModel,
    loader: Batches,
    when: Calendar,
    config: TrainingConfig,
    checkpoint: Path | None = None,
    observe: Observer | None = None,
    warm: bool = False,
    processes: Alone = ALONE,
) -> Trained:
    """Train until the epochs are done or validation has not improved for `patience` of them.

    warm: the model has been trained before, so its read-out is not started anew. processes: those that train together
    (training/parallel.py).

    checkpoint: a file that is written every config.checkpoint_steps steps, and gone on from when it is there.
    Raises TrainingError on a loss or gradient that is not finite, DataError when a split has nothing to learn from.
    """
    _use_threads(config)
    if not warm:
        fit_readout(model, loader, everything=not when.holds_back)

    def end_epoch() -> dict[str, float]:
        return evaluate(model, loader, when.validation(), config.objectives).losses

    batches, plan = _TimedBatches(loader, when, config, processes), plan_of(config, model.spec.tasks, loader.steps)
    fitted = fit(model, batches, plan, end_epoch, checkpoint, observe, processes)
    found = evaluate(model, loader, when.validation(), config.objectives)
    carried = label_metrics(model, found)
    calibrate(model, found)
    return Trained(model.eval(), fitted.best_epoch, fitted.steps, fitted.curves, found, carried)


def refit(
    model: UserModel,
    loader: Batches,
    validated: Trained,
    when: Calendar,
    config: TrainingConfig,
    checkpoint: Path | None = None,
    observe: Observer | None = None,
    processes: Alone = ALONE,
) -> UserModel:
    """Train a new model on everything before as_of, for as many epochs as `validated` found best; no split is left to evaluate it by.

    when: the calendar of a border at as_of. The slope of the calibration is the validated model's, whose logits were of impressions
    that it had not seen; the offset lets the mean probability of the last days be their mean label. Raises as `train` does.
    """
    _use_threads(config)
    fit_readout(model, loader, everything=not when.holds_back)
    batches = _TimedBatches(loader, when, config, processes)
    plan = plan_of(config, model.spec.tasks, loader.steps)  # at the learning rates of config.epochs
    plan = replace(plan, epochs=validated.best_epoch + 1)
    fit(model, batches, plan, checkpoint=checkpoint, observe=observe, processes=processes)
    pairs = validated.model.readout.calibration.tolist()
    calibrated = [column for column, pair in enumerate(pairs) if pair != [1.0, 0.0]]
    if calibrated:
        found = evaluate(model, loader, when.validation(), config.objectives.labels_only())
        for column in calibrated:
            fitted = metrics.fit_calibration(found.logits[:, column], found.labels[:, column], found.weights, scale=pairs[column][0])
            model.readout.calibration[column] = torch.tensor(fitted)  # type: ignore[operator]
    return model.eval()


def _use_threads(config: TrainingConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)

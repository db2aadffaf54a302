"""The training loop: batches in, a model with its best weights and its curves out.

Everything that is drawn (order of users, dropout, the moment of the neighbour objective) is a pure function of (seed, epoch,
step), so a run that was killed goes on from its last checkpoint and ends in the same weights as an undisturbed one. What comes
after the border belongs to validation: no loss of training looks past it. `refit` then learns once more from all that is known,
for as many epochs as validation found best: the last days are what tomorrow looks like most.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..config import ObjectiveConfig, TrainingConfig
from ..errors import DataError, TrainingError
from ..model.batch import JaggedBatch
from ..model.objectives import ALONE
from ..model.parallel import Alone
from ..model.readout import HEADS
from ..model.user_model import Moments, UserModel, total
from . import metrics
from .loader import Batches
from .logistic import fit_logistic

CUTS = 64  # moments that the neighbour objective draws from
CUT_RANGE = (0.4, 0.95)  # quantiles of the event times before the border between which they lie
POOLING = tuple(
    f"encoder.{name}"
    for name in ("item_weight", "idf_power", "direction_scale", "view_scale", "age", "repeated", "source_weight", "residual_share")
)
SAMPLED_BATCHES = 8  # batches from which times and the scale of facts are read off
Observer = Callable[[int, int, Mapping[str, float]], None]  # (epoch, step, losses) after each step


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


@dataclass(frozen=True)
class Evaluation:
    """A model on the validation split."""

    losses: dict[str, float]  # objective -> nats
    logits: np.ndarray  # (M, 2) float64 uncalibrated
    labels: np.ndarray  # (M, 2) float64
    weights: np.ndarray  # (M,) float64
    users: np.ndarray  # (M,) object
    segments: np.ndarray  # (M,) object: the user's when it was shown

    def total(self, objectives: ObjectiveConfig) -> float:
        return sum(getattr(objectives, name) * loss for name, loss in self.losses.items())

    def has_both(self, column: int) -> bool:
        """Whether the head of that column has labels of both classes among what is weighed."""
        return bool(0 < self.labels[:, column] @ self.weights < self.weights.sum())


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
            labels.append(torch.stack([shown.click, shown.conversion], dim=-1))
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
        for head in range(len(HEADS)):
            coefficients, bias = fit_logistic(x, y[:, head], weight, user)
            linear.weight[head] = torch.as_tensor(coefficients)
            linear.bias[head] = bias


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

    def end_epoch(state: _State) -> None:
        state.end_epoch(model, evaluate(model, loader, when.validation(), config.objectives), config.objectives)

    state = _epochs(model, loader, when, config, config.epochs, end_epoch, checkpoint, observe, warm, processes)
    model.load_state_dict(state.best)
    found = evaluate(model, loader, when.validation(), config.objectives)
    carried = label_metrics(model, found)
    calibrate(model, found)
    return Trained(model.eval(), state.best_epoch, sum(int(row["steps"]) for row in state.curves), state.curves, found, carried)


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
    """Train a new model on everything before as_of, for as many epochs as `validated` found best; no split is left to judge it by.

    when: the calendar of a border at as_of. The slope of the calibration is the validated model's, whose logits were of impressions
    that it had not seen; the offset lets the mean probability of the last days be their mean label. Raises as `train` does.
    """
    _epochs(model, loader, when, config, validated.best_epoch + 1, _State.next_epoch, checkpoint, observe, processes=processes)
    pairs = validated.model.readout.calibration.tolist()
    calibrated = [column for column, pair in enumerate(pairs) if pair != [1.0, 0.0]]
    if calibrated:
        found = evaluate(model, loader, when.validation(), replace(config.objectives, neighbour=0.0, next_item=0.0))
        for column in calibrated:
            fitted = metrics.fit_calibration(found.logits[:, column], found.labels[:, column], found.weights, scale=pairs[column][0])
            model.readout.calibration[column] = torch.tensor(fitted)  # type: ignore[operator]
    return model.eval()


def _epochs(
    model: UserModel,
    loader: Batches,
    when: Calendar,
    config: TrainingConfig,
    epochs: int,
    end_epoch: Callable[[_State], None],
    checkpoint: Path | None,
    observe: Observer | None,
    warm: bool = False,
    processes: Alone = ALONE,
) -> _State:
    """Train for so many epochs of the config.epochs that the learning rate is planned for, or until the state has had enough."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if not warm:
        fit_readout(model, loader, everything=not when.holds_back)
    optimizer = optimizer_of(model, config)
    state = _State()
    if checkpoint is not None and checkpoint.is_file():
        state = _restore(checkpoint, model, optimizer)
    planned = config.epochs * loader.steps
    while state.epoch < epochs and not state.stopped(config.patience):
        model.train()
        steps = _progress(loader.batches(state.epoch, start=state.step), loader.steps - state.step, f"epoch {state.epoch + 1}")
        for batch in steps:
            moments = when.training(config.seed, state.epoch, state.step)
            torch.manual_seed(_step_seed(config.seed, state.epoch, state.step))
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * _schedule(state.epoch * loader.steps + state.step, planned)
            losses = model.losses(batch, moments, config.objectives, processes=processes)
            whole = {name: processes.total(loss) for name, loss in losses.items()}
            if losses:
                where = f"epoch {state.epoch + 1}, step {state.step + 1}"
                optimise(optimizer, losses, whole, config, where, processes)
                state.add(whole)
            state.step += 1
            if observe is not None:
                observe(state.epoch, state.step, {name: float(loss) for name, loss in whole.items()})
            if checkpoint is not None and processes.rank == 0 and state.step % config.checkpoint_steps == 0:
                _save(checkpoint, model, optimizer, state)
        if not state.sums:
            raise DataError("the training split is empty: no user has a labelled impression or a later item before the validation time")
        end_epoch(state)
        if checkpoint is not None and processes.rank == 0:
            _save(checkpoint, model, optimizer, state)
    return state


@torch.no_grad()
def evaluate(model: UserModel, loader: Batches, moments: Moments, objectives: ObjectiveConfig) -> Evaluation:
    """Losses on the validation split, and the logits of its impressions. Raises DataError when there is nothing to judge by."""
    model.eval()
    contrastive = replace(objectives, click=0.0, conversion=0.0)
    labelled = bool(objectives.click or objectives.conversion)
    sums: dict[str, list[float]] = {}
    parts: list[tuple[np.ndarray, ...]] = []
    for batch in loader.in_order():
        states = model.encoder.states(batch)
        for name, loss in model.losses(batch, moments, contrastive, states).items():
            mean = sums.setdefault(name, [0.0, 0.0])
            mean[0] += float(loss) * len(batch)
            mean[1] += len(batch)
        if labelled and batch.impressions is not None:
            parts.append(judged(model, batch, states))
    losses = {name: value / count for name, (value, count) in sums.items()}
    joined = [np.concatenate(part) for part in zip(*parts, strict=True)] if parts else _no_impressions()
    logits, labels, weights, users, segments = joined
    if weights.sum() > 0:
        for column, head in enumerate(HEADS):
            if getattr(objectives, head):
                each = np.logaddexp(0, logits[:, column]) - labels[:, column] * logits[:, column]
                losses[head] = float(np.average(each, weights=weights))
    if not losses:
        raise DataError(
            "the validation split is empty: no impression and no later item in the last labels.validation_days before as_of; "
            "raise labels.validation_days"
        )
    return Evaluation(losses, logits, labels, weights, users, segments)


def calibrate(model: UserModel, found: Evaluation) -> None:
    """Fit scale and offset of each head on the validation split, so that the mean probability is the mean label."""
    for column in range(len(HEADS)):
        if found.has_both(column):
            scale, offset = metrics.fit_calibration(found.logits[:, column], found.labels[:, column], found.weights)
            model.readout.calibration[column] = torch.tensor([scale, offset])  # type: ignore[operator]


def probabilities(model: UserModel, found: Evaluation) -> np.ndarray:
    """(M, 2) float64 calibrated probabilities of what was evaluated."""
    result: np.ndarray = model.readout.probabilities(torch.from_numpy(found.logits)).numpy()
    return result


def label_metrics(model: UserModel, found: Evaluation) -> dict[str, float | None]:
    """<head>.ne, .auc, .gauc and .calibration of the calibrated probabilities; None where a head has labels of one class only."""
    result: dict[str, float | None] = {}
    predicted = probabilities(model, found)
    for column, head in enumerate(HEADS):
        labels, weights, p = found.labels[:, column], found.weights, predicted[:, column]
        names = [f"{head}.{name}" for name in ("ne", "auc", "gauc", "calibration")]
        if not found.has_both(column):
            result |= dict.fromkeys(names)
            continue
        values = (
            metrics.normalized_entropy(labels, p, weights),
            metrics.auc(labels, p, weights),
            metrics.grouped_auc(labels, p, found.users, weights),
            metrics.calibration(labels, p, weights),
        )
        result |= dict(zip(names, values, strict=True))
    return result


def flops_per_user(model: UserModel, batch: JaggedBatch) -> float:
    """Floating point operations of the user sub-graph per user of the batch (multiplications and additions counted apart)."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.encoder.embed(batch)
    return counter.get_total_flops() / len(batch)


@dataclass
class _State:
    """Where a training stands; all of it is in a checkpoint."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)  # objective -> [sum of losses, steps] of this epoch
    curves: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = -1
    best_loss: float = math.inf

    def add(self, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            mean = self.sums.setdefault(name, [0.0, 0.0])
            mean[0] += float(loss)
            mean[1] += 1

    def end_epoch(self, model: UserModel, found: Evaluation, objectives: ObjectiveConfig) -> None:
        loss = found.total(objectives)
        if not math.isfinite(loss):
            raise TrainingError(f"the validation loss is not finite after epoch {self.epoch + 1}: lower training.learning_rate")
        row = {f"train.{name}": value / count for name, (value, count) in self.sums.items()}
        row |= {f"validation.{name}": value for name, value in found.losses.items()} | {"validation.total": loss, "steps": self.step}
        self.curves.append(row)
        if loss < self.best_loss:
            self.best, self.best_epoch, self.best_loss = copy.deepcopy(model.state_dict()), self.epoch, loss
        self.next_epoch()

    def next_epoch(self) -> None:
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def stopped(self, patience: int) -> bool:
        return self.best_epoch >= 0 and self.epoch - 1 - self.best_epoch >= patience


def optimizer_of(model: UserModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW; item tables learn slower or not at all, what weighs events faster, and only matrices decay."""
    shares = {"items": config.item_learning_rate_share, "pooling": config.pooling_learning_rate_share, "matrices": 1.0, "rest": 1.0}
    kinds: dict[str, list[torch.nn.Parameter]] = {kind: [] for kind in shares}
    for name, parameter in model.named_parameters():
        if name.startswith("encoder.quantizers."):
            continue
        if name == "encoder.item_vectors":
            parameter.requires_grad = shares["items"] > 0
            kinds["items"].append(parameter)
        elif name.startswith(POOLING):
            kinds["pooling"].append(parameter)
        else:
            kinds["matrices" if parameter.ndim > 1 else "rest"].append(parameter)
    groups = []
    for kind, share in shares.items():
        if kinds[kind] and share > 0:
            decay, rate = config.weight_decay if kind == "matrices" else 0.0, config.learning_rate * share
            groups.append({"params": kinds[kind], "lr": rate, "base": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups)


def optimise(
    optimizer: torch.optim.Optimizer,
    losses: Mapping[str, Tensor],
    whole: Mapping[str, Tensor],
    config: TrainingConfig,
    where: str = "a step",
    processes: Alone = ALONE,
) -> None:
    """One step. losses: this process's parts; whole: their sums over the processes, on which all of them decide alike.

    Raises TrainingError on a loss or gradient that is not finite.
    """
    broken = [name for name, loss in whole.items() if not loss.isfinite()]
    if broken:
        raise TrainingError(f"the loss of {', '.join(broken)} is not finite at {where}: lower training.learning_rate or look at the inputs")
    optimizer.zero_grad(set_to_none=True)
    total(dict(losses), config.objectives).backward()
    learnt = [p for group in optimizer.param_groups for p in group["params"]]
    if processes.size > 1:
        # A parameter that no process has a gradient of is left alone, as one process alone would: zeros would let it decay.
        moved = processes.total(torch.tensor([parameter.grad is not None for parameter in learnt]).int())
        for parameter, by_some in zip(learnt, moved.tolist(), strict=True):
            if by_some:
                parameter.grad = processes.total(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    norm = torch.nn.utils.clip_grad_norm_([p for p in learnt if p.grad is not None], config.clip_norm)
    if not norm.isfinite():
        raise TrainingError(f"the gradient is not finite at {where}: lower training.learning_rate or training.clip_norm")
    optimizer.step()


def _schedule(step: int, planned: int) -> float:
    """Share of the learning rate: up over the first twentieth, then down a cosine to a tenth."""
    warm = max(1, planned // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, planned - warm)))


def _step_seed(seed: int, epoch: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0])


def judged(model: UserModel, batch: JaggedBatch, states: Mapping[str, Tensor]) -> tuple[np.ndarray, ...]:
    """(logits, labels, weights, users, segments) of the batch's validation impressions."""
    assert batch.impressions is not None
    shown = batch.impressions.select(batch.impressions.validation)
    logits = model.readout(replace(batch, impressions=shown), states, model.encoder).double().numpy()
    labels = torch.stack([shown.click, shown.conversion], dim=-1).double().numpy()
    users = np.array(batch.user_ids, object)[shown.users().numpy()]
    return logits, labels, shown.weight.double().numpy(), users, np.full(len(users), batch.segment, object)


def _no_impressions() -> list[np.ndarray]:
    return [np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, object), np.zeros(0, object)]


def _save(path: Path, model: UserModel, optimizer: torch.optim.Optimizer, state: _State) -> None:
    """As a whole or not at all: a kill while writing leaves the checkpoint before."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    waiting = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": vars(state)}, waiting)
    waiting.chmod(0o600)
    os.replace(waiting, path)


def _restore(path: Path, model: UserModel, optimizer: torch.optim.Optimizer) -> _State:
    try:
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        return _State(**saved["state"])
    except Exception as error:
        raise TrainingError(f"the checkpoint {path} cannot be gone on from ({error}): delete it to train from the start") from error


def _progress(batches: Any, steps: int, name: str) -> Any:
    from tqdm import tqdm

    return tqdm(batches, total=steps, desc=name, unit="batch", disable=not sys.stderr.isatty(), leave=False)

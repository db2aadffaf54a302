"""The training loop of every model. Enters: a model, its batches, a plan. Leaves: the model with its best weights, and curves.

Per epoch: 1. one step per batch;  2. the caller's end of the epoch, which gives validation losses;  3. the weights are saved if they are
the best so far;  4. a checkpoint. What a step draws (dropout) is a pure function of (seed, epoch, step). If the batches are one too, a
killed training continues from its checkpoint and ends with the same weights as an undisturbed one.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, TrainingError
from ..model.parallel import ALONE, Alone
from ..model.trainable import Trainable
from .optimizers import Optimizers
from .plan import Plan

Observer = Callable[[int, int, Mapping[str, float]], None]  # (epoch, steps made in it, losses) after each step


class EpochBatches(Protocol):
    """What the loop trains on."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        """The epoch's batches from the start-th on, each as the arguments of the model's `losses`."""


@dataclass(frozen=True)
class Fitted:
    """How a training went."""

    best_epoch: int  # whose weights the model has, from 0; without validation -1: it has those of the last epoch
    best_loss: float  # weighted validation loss of that epoch; infinite without validation
    curves: list[dict[str, float]]  # one per epoch: train.<loss>, validation.<loss>, validation.total, steps, and what was measured

    @property
    def steps(self) -> int:
        return sum(int(row["steps"]) for row in self.curves)


def fit(
    model: Trainable,
    batches: EpochBatches,
    plan: Plan,
    end_epoch: Callable[[], Mapping[str, float]] | None = None,
    checkpoint: Path | None = None,
    observe: Observer | None = None,
    processes: Alone = ALONE,
    measure: Callable[[], Mapping[str, Tensor]] | None = None,
) -> Fitted:
    """Train the model until the epochs are done or validation has not improved for plan.patience of them.

    end_epoch: called after the steps of an epoch to evaluate the model on held-out data; returns validation loss -> its value. The model
    ends with the weights of the epoch with the least weighted sum of them (of equal ones the first); without it, with the last weights.
    checkpoint: a file that is written every plan.checkpoint_steps steps; where it exists, training continues from it. processes: those
    that train together, each on its part of every batch (training/parallel.py). measure: called after each step, gives name -> (); a row of
    the curves has its mean over the steps of the epoch that gave one.
    Raises TrainingError on a loss or gradient that is not finite, DataError when no batch of an epoch has a loss.
    """
    optimizers = Optimizers(model.parameter_groups(), plan)
    state = _State()
    if checkpoint is not None and checkpoint.is_file():
        state = _restore(checkpoint, model, optimizers)

    def save() -> None:
        if checkpoint is not None and processes.rank == 0:
            _save(checkpoint, model, optimizers, state)

    while state.epoch < plan.epochs and not state.stopped(plan.patience):
        model.train()
        for batch in _progress(batches.batches(state.epoch, start=state.step), batches.steps - state.step, f"epoch {state.epoch + 1}"):
            optimizers.schedule(state.epoch * batches.steps + state.step)
            losses = _losses(model, batch, plan.seed, state)
            whole = optimizers.step(losses, f"epoch {state.epoch + 1}, step {state.step + 1}", processes)
            state.add(whole, {} if measure is None else measure())
            if observe is not None:
                observe(state.epoch, state.step, {name: float(loss) for name, loss in whole.items()})
            if state.step % plan.checkpoint_steps == 0:
                save()
        if not state.sums:
            raise DataError(f"the training split is empty: {plan.needed}")
        state.end_epoch(model, None if end_epoch is None else end_epoch(), plan)
        save()
    if state.best:
        model.load_state_dict(state.best)
    return Fitted(state.best_epoch, state.best_loss, state.curves)


def _losses(model: Trainable, batch: tuple[Any, ...], seed: int, state: _State) -> Mapping[str, Tensor]:
    """The model's losses on a batch. What they draw depends on the seed and the step alone; torch's own generator stays where it was."""
    own = np.random.SeedSequence([seed, state.epoch, state.step]).generate_state(1)[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(own))  # that of the CPU; torch.manual_seed takes longer than a step of a small model
        return model.losses(*batch)


@dataclass
class _State:
    """Where a training stands; all of it is in a checkpoint."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)  # loss -> [sum, steps] of this epoch
    measured: dict[str, list[float]] = field(default_factory=dict)  # the same of what was measured
    curves: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = -1
    best_loss: float = math.inf

    def add(self, losses: Mapping[str, Tensor], measured: Mapping[str, Tensor]) -> None:
        """Count a step, its losses and what was measured at it."""
        for sums, values in ((self.sums, losses), (self.measured, measured)):
            for name, value in values.items():
                mean = sums.setdefault(name, [0.0, 0.0])
                mean[0] += float(value)
                mean[1] += 1
        self.step += 1

    def end_epoch(self, model: Trainable, validation: Mapping[str, float] | None, plan: Plan) -> None:
        """Set the model's weights aside where validation is better than ever, and go on to the next epoch."""
        row = {f"train.{name}": value / count for name, (value, count) in self.sums.items()}
        row |= {name: value / count for name, (value, count) in self.measured.items()}
        if validation is not None:
            loss = sum(plan.loss_weights.get(name, 1.0) * value for name, value in validation.items())
            if not math.isfinite(loss):
                raise TrainingError(f"the validation loss is not finite after epoch {self.epoch + 1}: lower {plan.rate_setting}")
            row |= {f"validation.{name}": value for name, value in validation.items()} | {"validation.total": loss}
            if loss < self.best_loss:
                self.best, self.best_epoch, self.best_loss = copy.deepcopy(model.state_dict()), self.epoch, loss
        self.curves.append(row | {"steps": self.step})
        self.epoch, self.step, self.sums, self.measured = self.epoch + 1, 0, {}, {}

    def stopped(self, patience: float) -> bool:
        return self.best_epoch >= 0 and self.epoch - 1 - self.best_epoch >= patience


def _save(path: Path, model: Trainable, optimizers: Optimizers, state: _State) -> None:
    """As a whole or not at all: a kill while writing leaves the checkpoint before."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    waiting = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "state": vars(state), **optimizers.state_dict()}, waiting)
    waiting.chmod(0o600)
    os.replace(waiting, path)


def _restore(path: Path, model: Trainable, optimizers: Optimizers) -> _State:
    try:
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizers.load_state_dict(saved)
        return _State(**saved["state"])
    except Exception as error:
        raise TrainingError(f"the checkpoint {path} cannot be gone on from ({error}): delete it to train from the start") from error


def _progress(batches: Iterator[tuple[Any, ...]], steps: int, name: str) -> Any:
    """The batches, with a bar on a terminal once an epoch has taken a second."""
    from tqdm import tqdm

    return tqdm(batches, total=steps, desc=name, unit="batch", disable=not sys.stderr.isatty(), leave=False, delay=1)

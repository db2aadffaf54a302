"""Where a model that learns through the day stands: all of it is in one file, which is there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..clock import DAY_MS
from ..errors import TrainingError

COUNT, POSITIVE, LEARNING, FROZEN = range(4)  # what is judged of a window and task: samples, positives, nats of both models

Waits = dict[str, dict[int, int]]  # task -> account -> ms; accounts that have the shortest wait are left out


@dataclass
class OnlineState:
    """What was learnt, and what is needed to go on."""

    base: str  # model_id of the model that it began as, and its version in the registry
    version: str
    begin_ms: int
    learnt_until_ms: int
    published_ms: int  # up to where the last registered version had learnt, or tried to be one
    usual: float = 0.0  # impressions of a window before it began, to which a loss is a mean; 0: not known yet
    waits: dict[int, Waits] = field(default_factory=dict)  # midnight -> waits of the impressions shown from then on
    counts: dict[str, float] = field(default_factory=dict)  # windows, samples, positives, taken_back, left_out
    # Window -> what both models said of the impressions shown in it, before it was learnt: event (n,), ascending; logits (n, tasks) each.
    predicted: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    judged: dict[int, Tensor] = field(default_factory=dict)  # window -> (tasks, 4) float64 of its impressions, COUNT to FROZEN

    @classmethod
    def begun(cls, base: str, version: str, as_of_ms: int) -> OnlineState:
        return cls(base, version, as_of_ms, as_of_ms, as_of_ms)

    def count(self, **more: float) -> None:
        for name, value in more.items():
            self.counts[name] = self.counts.get(name, 0.0) + float(value)

    def waits_of(self, task: str, time_ms: np.ndarray, account: np.ndarray, shortest_ms: int) -> np.ndarray:
        """(n,) int64 how long impressions (n,) are waited for: what was chosen at the last midnight before them, or else the first."""
        begins = sorted(self.waits)
        chosen_at = np.clip(np.searchsorted(begins, time_ms, side="right") - 1, 0, None)
        result = np.full(len(time_ms), shortest_ms, np.int64)
        for place, midnight in enumerate(begins):
            longer = self.waits[midnight][task]
            mine = np.flatnonzero(chosen_at == place)
            result[mine] = [longer.get(number, shortest_ms) for number in account[mine].tolist()]
        return result

    def forget(self, before_ms: int) -> None:
        """What only impressions shown before then need."""
        begins = sorted(self.waits)
        for midnight, following in pairwise(begins):
            if following <= before_ms:
                del self.waits[midnight]
        for window in [one for one in self.predicted if one + DAY_MS <= before_ms]:  # no window is longer than a day
            del self.predicted[window]

    def totals(self) -> np.ndarray:
        """(windows, tasks, 4) float64 of the windows with a sample, by time."""
        judged: np.ndarray = (
            torch.stack([self.judged[window] for window in sorted(self.judged)]).numpy() if self.judged else np.zeros((0, 0, 4))
        )
        return judged


def save(path: Path, state: OnlineState, network: Mapping[str, Tensor], optimizers: Mapping[str, Any]) -> None:
    """As a whole or not at all: a kill while writing leaves the file before."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    waiting = path.with_suffix(".part")
    torch.save({"state": vars(state), "network": dict(network), "optimizers": dict(optimizers)}, waiting)
    waiting.chmod(0o600)
    os.replace(waiting, path)


def load(path: Path) -> tuple[OnlineState, dict[str, Tensor], dict[str, Any]] | None:
    """(state, weights, optimizers), None where there is no file. Raises TrainingError on one that is damaged."""
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, weights_only=True)
        return OnlineState(**saved["state"]), saved["network"], saved["optimizers"]
    except Exception as error:
        raise TrainingError(f"{path}, where learning stood, is damaged ({type(error).__name__}): delete it to begin anew") from error


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Around what takes weights and optimizers of the file. Raises TrainingError where they are of another model."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(f"{path} was written by a model of another shape ({type(error).__name__}): delete it to begin anew") from error

"""A ranking model that goes on learning through the day, window by window of the log (Pan et al., section 6.3).

Per window [begin, end):  1. at a midnight of UTC the waits of all accounts are chosen, by what was known then;  2. the model that learns
and the one that it began as predict what was shown in the window;  3. one step on the samples that go out in it: impressions whose wait
is over, with the label of then, and of late responses the sample taken back and given anew;  4. the same samples judge what was said of
their impressions when they were shown.

Enters: a `LearningLog` of all impressions that may still make a sample. Leaves: the state after each window. What a window does is a
function of the state and of what was known before its end, so that a replay of a log, a stream, and a run that was killed and goes on
from its last state all give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..batches.batch import JaggedBatch
from ..clock import DAY_MS, HOUR_MS, format_time, known_before
from ..config import Config, RankingConfig
from ..errors import ConfigError
from ..ranking.artifact import RankingArtifact
from . import online_state
from .delayed_feedback import Samples, samples, waits
from .online_log import LearningLog
from .online_state import OnlineState
from .optimizers import Optimizers
from .plan import Plan

Numbered = tuple[str, RankingArtifact]  # a version of the registry, and its model
SAVED_EVERY = 20  # windows of a replay
BEGAN_AS = "began_as"  # fact of a model that learnt through the day: the model_id of the one that it began as


@dataclass(frozen=True)
class Learnt:
    """What one step was made of: m impressions, each with what its samples of the window add up to."""

    begin_ms: int
    end_ms: int
    event: np.ndarray  # (m,) int64
    weight: np.ndarray  # (m, tasks) float64: 1 where it goes out, 0 where its sample is taken back and given anew
    positive: np.ndarray  # (m, tasks) float64: samples with a response; 1 for such a correction, too


class OnlineLearner:
    """The model, the one that it began as, and where it stands."""

    def __init__(self, base: RankingArtifact, config: RankingConfig, state: OnlineState, window_ms: int) -> None:
        """base: what state.base names. window_ms: the longest after which a response counts (labels.window_ms).

        Raises ConfigError where the model predicts values.
        """
        if base.spec.values:
            raise ConfigError(
                f"learn_ranking learns tasks whose label is 0 or 1, but {base.model_id} predicts values too "
                f"({', '.join(base.spec.values)}): leave them out of ranking.tasks"
            )
        self.base, self.config, self.online, self.state = base, config, config.online, state
        self.horizon_ms, self.lookback_ms = self.online.horizon_ms(window_ms), self.online.lookback_ms(window_ms)
        self.network, self.vocabulary = base.network()
        self.frozen, _ = base.network()
        self.tasks = base.spec.tasks
        plan = Plan(
            1, self.online.learning_rate, config.seed, weight_decay=config.weight_decay, clip_norm=config.clip_norm,
            learning_rate_shares={"tables": config.table_learning_rate_share},
            rate_setting="ranking.online.learning_rate", clip_setting="ranking.clip_norm",
        )  # fmt: skip
        self.optimizers = Optimizers(self.network.parameter_groups(), plan)

    @classmethod
    def at(cls, path: Path, champion: Numbered, read: Callable[[str], Numbered], config: Config) -> OnlineLearner:
        """Where an earlier run that wrote `path` stands, if it began as the champion or made it; else at the champion.

        read: gives the model of a version. Raises TrainingError where the file is damaged.
        """
        version, model = champion
        if config.training.threads:
            torch.set_num_threads(config.training.threads)
        found = online_state.load(path)
        if found is None or found[0].base not in (model.model_id, model.facts.get(BEGAN_AS)):
            return cls(model, config.ranking, OnlineState.begun(model.model_id, version, model.as_of_ms), config.labels.window_ms)
        state, weights, optimizers = found
        base = model if state.base == model.model_id else read(state.version)[1]
        learner = cls(base, config.ranking, state, config.labels.window_ms)
        with online_state.fitting(path):
            learner.network.load_state_dict(weights)
            learner.optimizers.load_state_dict(optimizers)
        return learner

    def save(self, path: Path) -> None:
        online_state.save(path, self.state, self.network.state_dict(), self.optimizers.state_dict())

    def artifact(self) -> RankingArtifact:
        """The model as it stands, with the vocabulary and encodings of the one that it began as, and what that said of itself."""
        own = {"as_of_ms": self.state.learnt_until_ms, BEGAN_AS: self.state.base}
        return RankingArtifact.of(self.network, self.vocabulary, {**self.base.facts, **own})

    def is_due(self) -> bool:
        """Whether the learnt time has passed a multiple of ranking.online.publish_hours since a version was registered or refused."""
        every = self.online.publish_hours * HOUR_MS
        return self.state.learnt_until_ms // every > self.state.published_ms // every

    def note_published(self, path: Path) -> None:
        self.state.published_ms = self.state.learnt_until_ms
        self.save(path)

    def said(self) -> str:
        began, now = (format_time(moment) for moment in (self.state.begin_ms, self.state.learnt_until_ms))
        return f"{self.state.base}, trained up to {began}, has learnt up to {now}"

    @property
    def history_from_ms(self) -> int:
        """Before every impression that may make a sample: events/moments.Moments."""
        return self.state.begin_ms - self.horizon_ms

    def since_ms(self, until_ms: int) -> int:
        """The log that is needed to learn up to then begins with the impressions shown at this moment."""
        midnight = self._midnight()
        midnight += DAY_MS if midnight in self.state.waits else 0
        needed = self.state.learnt_until_ms - self.horizon_ms
        return min(needed, midnight - self.lookback_ms) if midnight < until_ms else needed

    def has_ended(self, until_ms: int) -> bool:
        """Whether the next window ends by then."""
        return self._end() <= until_ms

    def advance(self, log: LearningLog, until_ms: int, left_out: Mapping[int, int], path: Path) -> None:
        """Learn all windows that end by then, and save the state."""
        for number, _ in enumerate(self.learn(log, until_ms, left_out), 1):
            if number % SAVED_EVERY == 0:
                self.save(path)
        self.save(path)

    def learn(self, log: LearningLog, until_ms: int, left_out: Mapping[int, int] | None = None) -> Iterator[Learnt]:
        """Each window that ends by then, once it is learnt.

        log: the impressions shown since since_ms(until_ms) and known before until_ms. left_out: window -> events that came too late. Raises
        TrainingError on a loss or gradient that is not finite.
        """
        fed: dict[str, Samples] = {}
        while self.has_ended(until_ms):
            begin, end = self.state.learnt_until_ms, self._end()
            if self._midnight() not in self.state.waits:
                self._choose_waits(log, self._midnight())
                fed = {}
            fed = fed or {task: self._samples(log, task) for task in self.tasks}
            self._predict(log, begin, end)
            learnt = self._step(log, {task: its.between(begin, end) for task, its in fed.items()}, begin, end)
            self.state.count(windows=1, left_out=(left_out or {}).get(self._window(begin), 0))
            self.state.learnt_until_ms = end
            self.state.forget(end - self.horizon_ms)
            yield learnt

    def _midnight(self) -> int:
        return self.state.learnt_until_ms // DAY_MS * DAY_MS

    def _end(self) -> int:
        """Windows end at multiples of their length, wherever the first one begins."""
        return int(self._window(self.state.learnt_until_ms)) + self.online.every_ms

    def _window(self, moment_ms: Any) -> Any:
        """How the window of a moment is called, epoch ms; works on arrays too."""
        return moment_ms // self.online.every_ms * self.online.every_ms

    def _choose_waits(self, log: LearningLog, midnight: int) -> None:
        """Those of the impressions shown from this midnight on, and at the first one how many impressions a window has."""
        before = log.between(midnight - self.lookback_ms, midnight)
        before = before[known_before(log.known_ms[before], midnight)]
        names, account = np.unique(log.account[before], return_inverse=True)
        found = {}
        for task in self.tasks:
            shown, online = replace(log.shown(task, before), account=account), self.online
            settings = (online.waits_ms, online.history_days, DAY_MS, online.most_unrest, online.least_responses)
            wait_ms = waits(shown, len(names), midnight, *settings)
            longer = wait_ms > online.waits_ms[0]
            found[task] = dict(zip(names[longer].tolist(), wait_ms[longer].tolist(), strict=True))
        self.state.waits[midnight] = found
        if not self.state.usual:
            history_ms = self.online.history_days * DAY_MS
            recent = (log.time_ms[before] >= midnight - history_ms).sum()
            self.state.usual = max(1.0, float(recent) * self.online.every_ms / history_ms)

    def _samples(self, log: LearningLog, task: str) -> Samples:
        wait_ms = self.state.waits_of(task, log.time_ms, log.account, self.online.waits_ms[0])
        return samples(log.shown(task), wait_ms)

    @torch.no_grad()
    def _predict(self, log: LearningLog, begin: int, end: int) -> None:
        """Remember what both models say of the impressions shown in the window; one that became known later is not judged."""
        places = log.between(begin, end)
        places = places[known_before(log.known_ms[places], end)]
        if not len(places):
            return
        part = log.part(places, end)
        order = np.argsort(log.event[places], kind="stable")
        learning, frozen = (network.calibrated(network(part))[order] for network in (self.network.eval(), self.frozen.eval()))
        self.state.predicted[self._window(begin)] = (torch.from_numpy(log.event[places][order]), learning, frozen)

    def _step(self, log: LearningLog, fed: Mapping[str, Samples], begin: int, end: int) -> Learnt:
        """One step on the samples of the window, by task; without one nothing moves."""
        places = np.unique(np.concatenate([its.impression for its in fed.values()]))
        weight, positive = np.zeros((len(places), len(self.tasks))), np.zeros((len(places), len(self.tasks)))
        for column, its in enumerate(fed.values()):
            row = np.searchsorted(places, its.impression)
            weight[:, column] = np.bincount(row, its.weight, len(places))
            positive[:, column] = np.bincount(row, its.weight * its.label, len(places))
            self.state.count(samples=its.weight.sum(), positives=(its.weight * its.label).sum(), taken_back=(its.weight < 0).sum())
        if len(places):
            losses = self._losses(log.part(places, end), torch.from_numpy(weight).float(), torch.from_numpy(positive).float(), begin)
            self.optimizers.step(losses, f"the window from {format_time(begin)}")
            self._judge(log, places, weight, positive)
        return Learnt(begin, end, log.event[places], weight, positive)

    def _losses(self, part: JaggedBatch, weight: Tensor, positive: Tensor, begin: int) -> dict[str, Tensor]:
        """Task -> () cross entropy of the samples (m, tasks), over the usual number of them. What dropout draws is of seed and window."""
        own = np.random.SeedSequence([self.config.seed, begin % 2**63]).generate_state(1)[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(own))
            logits = self.network.calibrated(self.network.train()(part))
        means = cross_entropy(logits, weight, positive).sum(dim=0) / self.state.usual
        return dict(zip(self.tasks, means, strict=True))

    def _judge(self, log: LearningLog, places: np.ndarray, weight: np.ndarray, positive: np.ndarray) -> None:
        """Add the samples to what is known of both models' predictions, by the window in which their impressions were shown."""
        windows = self._window(log.time_ms[places])
        for window in np.unique(windows).tolist():
            if window not in self.state.predicted:  # shown before it began, or known too late to be predicted
                continue
            event, *said = self.state.predicted[window]
            mine = np.flatnonzero(windows == window)
            wanted = torch.from_numpy(log.event[places[mine]])
            row = torch.searchsorted(event, wanted).clamp(max=len(event) - 1)
            there = event[row] == wanted
            count, answered = (torch.from_numpy(its[mine])[there] for its in (weight, positive))
            nats = [cross_entropy(logits[row[there]].double(), count, answered).sum(dim=0) for logits in said]
            sums = torch.stack([count.sum(dim=0), answered.sum(dim=0), *nats], dim=1)
            self.state.judged[window] = self.state.judged.get(window, torch.zeros_like(sums)) + sums


def cross_entropy(logits: Tensor, weight: Tensor, positive: Tensor) -> Tensor:
    """Nats of samples, elementwise: weight is what they add up to, positive what those with a response do."""
    return weight * F.softplus(logits) - positive * logits

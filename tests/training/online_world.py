"""A log of impressions and clicks in memory, of which a model learns through the day, and the model that it begins as."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.clock import DAY_MS, HOUR_MS, NEVER_MS
from alure_spark.config import Config, ExpertConfig, OnlineConfig, RankingConfig, build
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training import ranking_model
from alure_spark.training.online import OnlineLearner
from alure_spark.training.online_log import LearningLog
from alure_spark.training.online_state import OnlineState

ADS, ACCOUNTS = 12, 4
TASKS = ("click", "conversion")
WINDOW_MS = DAY_MS  # in which a response counts
BEGIN_MS = 6 * DAY_MS
NAMES = ("event", "known", "account", *TASKS)
SPEC = RankingSpec(
    fields={
        "ad": FieldSpec("id", {"size": ADS + 1}, group="ad"),
        "clicks": FieldSpec("numeral_systems", {"low": 0, "high": 20, "steps": 21, "kind": "integer"}, history="click.count"),
    },
    tables={"one": 4},
    experts={"gwpfm": ExpertConfig("gwpfm", "one")},
    tasks=TASKS,
    hidden=8,
    tower=(8,),
    dropout=0.1,
)
VOCABULARY = Vocabulary.from_arrays(np.array(["ad"] * ADS, object), np.arange(1, ADS + 1), np.arange(1, ADS + 1))
ONLINE = OnlineConfig(
    every_minutes=60, learning_rate=5e-3, waits_hours=(0.0, 24.0, 48.0), history_days=3, report_hours=46.0, late_minutes=180.0
)
CONFIG = RankingConfig(online=ONLINE, epochs=20, patience=5, batch_users=8, learning_rate=0.01)


STREAMS = {name: {} for name in ("ad_impression", "ad_click", "conversion")}
WHOLE = replace(build(Config, {"streams": STREAMS, "labels": {"conversion_window_hours": 24.0}}), ranking=CONFIG)


@dataclass(frozen=True)
class Log:
    """n impressions by time, as they happened, whatever was known when."""

    event: np.ndarray
    user: np.ndarray
    time_ms: np.ndarray
    known_ms: np.ndarray
    ad: np.ndarray
    answered_ms: dict[str, np.ndarray]  # NEVER_MS without a response

    def only(self, kept: np.ndarray) -> Log:
        answers = {task: its[kept] for task, its in self.answered_ms.items()}
        return Log(self.event[kept], self.user[kept], self.time_ms[kept], self.known_ms[kept], self.ad[kept], answers)


def world(seed: int = 0, days: int = 11, a_day: int = 400, users: int = 60, changes_at: int | None = None, null: bool = False) -> Log:
    """Ads have tastes, which are drawn anew on day changes_at. Accounts with even numbers report in bursts. null: all ads are alike."""
    random = np.random.default_rng(seed)
    count = days * a_day
    time_ms = np.sort(random.choice(days * DAY_MS, count, replace=False))
    ad, user = random.integers(1, ADS + 1, count), random.integers(0, users, count)
    tastes = random.normal(0, 0 if null else 1.2, (2, ADS + 1))
    later = np.zeros(count, int) if changes_at is None else (time_ms >= changes_at * DAY_MS).astype(int)
    answers = {}
    for task, level in (("click", -1.2), ("conversion", -2.0)):
        known_ms = time_ms + np.minimum(random.exponential(HOUR_MS, count), WINDOW_MS - 2).astype(np.int64) + 1
        reports = np.cumsum(random.uniform(20, 44, 4 * days) * HOUR_MS).astype(np.int64)
        in_bursts = ad % ACCOUNTS % 2 == 0
        known_ms = np.where(in_bursts, reports[np.searchsorted(reports, known_ms)], known_ms)
        happened = random.random(count) < 1 / (1 + np.exp(-(level + tastes[later, ad])))
        answers[task] = np.where(happened, known_ms, NEVER_MS)
    late_ms = np.where(random.random(count) < 0.05, random.integers(0, 3 * HOUR_MS, count), 0)
    known_ms = time_ms + late_ms
    answers = {task: np.where(its == NEVER_MS, its, np.maximum(its, known_ms)) for task, its in answers.items()}
    return Log(random.permutation(count), user, time_ms, known_ms, ad, answers)


def batch_of(log: Log, since_ms: int, until_ms: int) -> JaggedBatch | None:
    """The users of the impressions shown since then and known before until, as a job has them then: nothing in it was known later."""
    shown = log.only((log.time_ms >= since_ms) & (log.known_ms < until_ms))
    names, user = np.unique([f"u{number:03}" for number in shown.user.tolist()], return_inverse=True)
    if not len(names):
        return None
    order = np.lexsort((shown.time_ms, user))
    answers = {task: np.where(its < until_ms, its, NEVER_MS)[order] for task, its in shown.answered_ms.items()}
    whole = {"event": shown.event[order], "known": shown.known_ms[order], "account": shown.ad[order] % ACCOUNTS, **answers}
    nobody = torch.zeros(len(names), dtype=torch.int64)
    impressions = Impressions(
        _offsets(user, len(names)), torch.from_numpy(shown.time_ms[order]), {"ad": torch.from_numpy(shown.ad[order])}, {},
        {task: torch.from_numpy((its != NEVER_MS).astype(np.float32)) for task, its in answers.items()},
        torch.ones(len(order)), torch.zeros(len(order), dtype=torch.int64), torch.from_numpy(shown.time_ms[order] >= 5 * DAY_MS),
        integers={name: torch.from_numpy(its.astype(np.int64)) for name, its in whole.items()},
    )  # fmt: skip
    return JaggedBatch("all", tuple(names.tolist()), nobody, nobody + until_ms, {"click": _clicks(log, names, until_ms)}, impressions)


def _clicks(log: Log, names: np.ndarray, until_ms: int) -> SourceTokens:
    """All clicks of the users that were known before until, whenever the ad was shown."""
    known_ms = log.answered_ms["click"]
    clicked = np.flatnonzero((known_ms < until_ms) & (known_ms != NEVER_MS) & np.isin(log.user, [int(name[1:]) for name in names]))
    clicked = clicked[np.lexsort((known_ms[clicked], log.user[clicked]))]
    user = np.searchsorted(names, [f"u{number:03}" for number in log.user[clicked].tolist()])
    known = torch.from_numpy(known_ms[clicked])
    return SourceTokens(_offsets(user, len(names)), known, known, {"item_id": torch.zeros(len(clicked), dtype=torch.int64)}, {})


def _offsets(user: np.ndarray, users: int) -> torch.Tensor:
    return offsets_of(torch.from_numpy(np.bincount(user, minlength=users)))


def read(log: Log, of: OnlineLearner, until_ms: int) -> LearningLog:
    """What the job reads to learn up to then."""
    return LearningLog.of(batch_of(log, of.since_ms(until_ms), until_ms), NAMES, TASKS)


def base(log: Log, trained: bool = False, seed: int = 7) -> RankingArtifact:
    """A model of what was shown before BEGIN_MS and became of it in the end; untrained, it says the base rate of all."""
    network = ranking_model.drawn_network(SPEC, seed)
    network.start_at({"click": 0.25, "conversion": 0.12})
    if trained:
        batch = batch_of(log.only(log.known_ms < BEGIN_MS), 0, 10**12)
        network = ranking_model.train(network, MemoryLoader(batch, CONFIG.batch_users, seed), CONFIG).network
    return RankingArtifact.of(network, VOCABULARY, {"as_of_ms": BEGIN_MS})


def learner(artifact: RankingArtifact, config: RankingConfig = CONFIG) -> OnlineLearner:
    state = OnlineState.begun(artifact.model_id, "1", artifact.as_of_ms)
    return OnlineLearner(artifact, config, state, WINDOW_MS)


def same_weights(one: OnlineLearner, other: OnlineLearner) -> bool:
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())

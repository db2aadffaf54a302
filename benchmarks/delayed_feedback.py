"""How long should a response be waited for, where a model learns through the day? (Pan et al., section 6.3)

    python -m benchmarks.delayed_feedback

A world of accounts whose rates wander. Half of them report each response within hours, the others report all that came since their last
report, every few days. One ranking model per way of feeding it learns hour by hour, each from the same impressions; before each hour it
predicts that hour's impressions, and is compared with the true probabilities. All start with two weeks of mature samples. The learning rate
of each is chosen on the first seed's days between these and those that are measured. In the null twin nobody reports in bursts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alure_spark.batches.batch import Impressions, JaggedBatch
from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.metrics import paired_interval
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training.delayed_feedback import NEVER, Samples, Shown, samples, waits
from alure_spark.training.optimizers import Optimizers
from alure_spark.training.plan import Plan
from alure_spark.training.ranking_model import drawn_network
from benchmarks import contract
from benchmarks.ranking_parts import CONFIG

SEEDS = (7, 8, 9)
RATES = (1e-3, 4e-3)
ACCOUNTS, FEATURES = 24, 20  # accounts with even numbers report in bursts
DAYS, MEASURED_FROM, TUNED_FROM = 42, 21, 14  # the model learns from day 0 on
START_MS = 14 * DAY_MS  # until then all are fed mature samples alone, as a model that is trained once before it goes online
A_DAY = 200  # impressions of an account
CHOICES_MS = tuple(days * DAY_MS for days in (0, 1, 2, 3, 5, 7))
HISTORY_DAYS, MOST_UNREST = 14, 0.3
ELAPSED_MS = 6 * HOUR_MS  # how long elapsed-time sampling waits for everybody
MATURE_MS = 7 * DAY_MS  # of an impression: no response comes any more
BIAS_WINDOW_MS = 6 * HOUR_MS


@dataclass(frozen=True)
class World:
    """n impressions, by time."""

    shown: Shown
    truth: np.ndarray  # (n,) float64: how likely the response is
    feature: np.ndarray  # (n,) int64


@dataclass(frozen=True)
class Feed:
    """A way of feeding the model, and what it makes of labels."""

    fed: Samples
    wait_ms: np.ndarray  # (n,) int64: until an impression first goes out
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]  # of (logits, labels, weights), each (M,)


def world(random: np.random.Generator, null: bool, days: int = DAYS, a_day: int = A_DAY) -> World:
    count = ACCOUNTS * a_day * days
    time_ms = np.sort(random.integers(0, days * DAY_MS, count))
    account, feature = random.integers(0, ACCOUNTS, count), random.integers(0, FEATURES, count)
    level = random.normal(-2.4, 0.5, ACCOUNTS) + np.cumsum(random.normal(0, 0.12, (days + 1, ACCOUNTS)), axis=0)
    day, share = time_ms // DAY_MS, time_ms % DAY_MS / DAY_MS
    logits = (1 - share) * level[day, account] + share * level[day + 1, account] + random.normal(0, 0.5, FEATURES)[feature]
    truth = 1 / (1 + np.exp(-logits))
    known_ms = time_ms + random.exponential(4 * HOUR_MS, count).astype(np.int64)
    for number in range(0, ACCOUNTS, 2):
        reports = np.cumsum(random.uniform(1.5 * DAY_MS, 5 * DAY_MS, days + 9)).astype(np.int64)
        mine = account == number
        if not null:
            known_ms[mine] = reports[np.searchsorted(reports, known_ms[mine])]
    return World(Shown(time_ms, account, np.where(random.random(count) < truth, known_ms, NEVER)), truth, feature)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """() sum of the samples' losses; a sample that is taken back has the weight -1."""
    return (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights).sum()


def fake_negatives(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Where every impression went out as a negative, and each response once more as a positive (Ktena et al., 2019, "FNW")."""
    p = torch.sigmoid(logits).detach()
    return cross_entropy(logits, labels, weights * (1 + p) * torch.where(labels == 1, 1, 1 - p))


def started(one: World, wait_ms: np.ndarray) -> np.ndarray:
    """(n,) int64: the waits (n,) of the days after START_MS, and those of the days before it."""
    return np.where(one.shown.time_ms < START_MS, MATURE_MS, wait_ms)


def fixed(one: World, wait_ms: int) -> Feed:
    """The same wait for everybody."""
    whole = started(one, np.full(len(one.truth), wait_ms))
    return Feed(samples(one.shown, whole), whole, cross_entropy)


def by_variance(one: World) -> Feed:
    """Each account's wait is chosen anew at midnight, by what is known then."""
    wait_ms, day = np.zeros(len(one.truth), np.int64), one.shown.time_ms // DAY_MS
    for today in range(START_MS // DAY_MS, int(day.max()) + 1):
        before, mine = day < today, day == today
        past = Shown(*(column[before] for column in (one.shown.time_ms, one.shown.account, one.shown.known_ms)))
        chosen = waits(past, ACCOUNTS, today * DAY_MS, CHOICES_MS, HISTORY_DAYS, DAY_MS, MOST_UNREST)
        wait_ms[mine] = chosen[one.shown.account[mine]]
    wait_ms = started(one, wait_ms)
    return Feed(samples(one.shown, wait_ms), wait_ms, cross_entropy)


def duplicates(shown: Shown, wait_ms: np.ndarray) -> Samples:
    """After the wait with the label of then; a later response goes out once more, and nothing is taken back."""
    fed = samples(shown, wait_ms)
    kept = fed.weight > 0
    return Samples(*(column[kept] for column in (fed.impression, fed.time_ms, fed.label, fed.weight)))


def fake_negative_weighting(one: World) -> Feed:
    """Every impression is a negative at once, also one that is answered at the same moment."""
    wait_ms = started(one, np.zeros(len(one.truth), np.int64))
    late = Shown(one.shown.time_ms, one.shown.account, np.maximum(one.shown.known_ms, one.shown.time_ms + 1))
    return Feed(duplicates(late, wait_ms), wait_ms, fake_negatives)


def elapsed_time_sampling(one: World) -> Feed:
    """ES-DFM (Yang et al., 2021): duplicates after a short wait, weighed so that late positives count once.

    Its two helpers, how likely a response comes late and how likely a negative of then is one, are shares of each account's impressions
    that are mature, taken anew at midnight.
    """
    shown = one.shown
    wait_ms = started(one, np.full(len(one.truth), ELAPSED_MS))
    fed = duplicates(shown, wait_ms)
    late = (shown.known_ms != NEVER) & (shown.known_ms > shown.time_ms + ELAPSED_MS)
    negative = (shown.known_ms == NEVER) | late
    day, weight = fed.time_ms // DAY_MS, np.ones(len(fed.label))
    for today in range(START_MS // DAY_MS, int(day.max()) + 1):
        end = today * DAY_MS - MATURE_MS
        mature = (shown.time_ms < end) & (shown.time_ms >= end - HISTORY_DAYS * DAY_MS)
        shares = [np.bincount(shown.account[mature & of], minlength=ACCOUNTS) for of in (late, negative, np.ones_like(late))]
        p_late = shares[0] / np.maximum(shares[2], 1)
        p_real = 1 - shares[0] / np.maximum(shares[1], 1)
        mine = (day == today) & (shown.time_ms[fed.impression] >= START_MS)
        account = shown.account[fed.impression[mine]]
        weight[mine] = (1 + p_late[account]) * np.where(fed.label[mine] == 1, 1, p_real[account])
    return Feed(Samples(fed.impression, fed.time_ms, fed.label, weight), wait_ms, cross_entropy)


OURS = "wait by variance"
FEEDS: Mapping[str, Callable[[World], Feed]] = {
    OURS: by_variance,
    "no wait": lambda one: fixed(one, 0),
    "1 day for all": lambda one: fixed(one, DAY_MS),
    "5 days for all": lambda one: fixed(one, 5 * DAY_MS),
    "fake-negative weighting": fake_negative_weighting,
    "elapsed-time sampling": elapsed_time_sampling,
}


def spec() -> RankingSpec:
    fields = {"account": FieldSpec("id", {"size": ACCOUNTS + 1}, "ad", "ad"), "feature": FieldSpec("id", {"size": FEATURES + 1})}
    return RankingSpec(fields, {"wide": 16, "narrow": 8}, CONFIG.experts, ("response",), hidden=16, tower=(16,), linear=True)


def batch(one: World, impressions: np.ndarray, label: np.ndarray, weight: np.ndarray) -> JaggedBatch:
    """These impressions (M,), as those of one user."""
    count, nobody = len(impressions), torch.zeros(1, dtype=torch.int64)
    rows = {"account": torch.from_numpy(1 + one.shown.account[impressions]), "feature": torch.from_numpy(1 + one.feature[impressions])}
    shown = Impressions(
        torch.tensor([0, count]), torch.from_numpy(one.shown.time_ms[impressions]), rows, {}, {"response": torch.from_numpy(label).float()},
        torch.from_numpy(weight).float(), torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool),
    )  # fmt: skip
    return JaggedBatch("all", ("",), nobody, nobody, {}, shown)


def learnt(one: World, feed: Feed, rate: float, seed: int, window_ms: int = HOUR_MS) -> np.ndarray:
    """(n,) float64: what the model says of each impression, before the window in which it is shown."""
    network: RankingNetwork = drawn_network(spec(), seed)
    network.start_at({"response": 0.1})
    optimizers = Optimizers(network.parameter_groups(), Plan(1, rate, seed, learning_rate_shares={"tables": 1.0}, clip_norm=10.0))
    said, nothing = np.zeros(len(one.truth)), np.zeros(0)
    windows = np.arange(0, one.shown.time_ms[-1] + window_ms, window_ms)
    places = np.searchsorted(one.shown.time_ms, [*windows, windows[-1] + window_ms])
    usual = len(one.truth) / len(windows)  # samples of a window, to which the loss is a mean
    for begin, first, last in zip(windows.tolist(), places[:-1], places[1:], strict=True):
        now = np.arange(first, last)
        with torch.no_grad():
            blank = np.zeros(len(now))
            said[now] = torch.sigmoid(network(batch(one, now, blank, blank))).double().numpy()[:, 0] if len(now) else nothing
        fed = feed.fed.between(begin, begin + window_ms)
        if len(fed.label):
            logits = network(batch(one, fed.impression, fed.label, fed.weight))[:, 0]
            loss = feed.loss(logits, torch.from_numpy(fed.label).float(), torch.from_numpy(fed.weight).float()) / usual
            optimizers.step({"response": loss})
    return said


def divergence(said: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of each prediction from the truth, nats: what its cross entropy is above the least possible one."""
    said = np.clip(said, 1e-9, 1 - 1e-9)
    return truth * np.log(truth / said) + (1 - truth) * np.log((1 - truth) / (1 - said))


def by_account(one: World, said: np.ndarray, first_day: int, last_day: int) -> dict[str, np.ndarray]:
    """divergence, nats, and bias, |sum of predictions / sum of truths - 1| of 6 hours; each (ACCOUNTS,), means over the days between."""
    time_ms, account = one.shown.time_ms, one.shown.account
    kept = (time_ms >= first_day * DAY_MS) & (time_ms < last_day * DAY_MS)
    windows = (last_day - first_day) * (DAY_MS // BIAS_WINDOW_MS)
    cell = account[kept] * windows + (time_ms[kept] - first_day * DAY_MS) // BIAS_WINDOW_MS
    sums = [np.bincount(cell, weights=its[kept], minlength=ACCOUNTS * windows).reshape(ACCOUNTS, windows) for its in (said, one.truth)]
    there = sums[1] > 0
    bias = np.where(there, np.abs(sums[0] / np.where(there, sums[1], 1) - 1), np.nan)
    far = np.bincount(account[kept], weights=divergence(said, one.truth)[kept], minlength=ACCOUNTS)
    return {"divergence": far / np.bincount(account[kept], minlength=ACCOUNTS), "bias": np.nanmean(bias, axis=1)}


def measured(null: bool, seeds: Sequence[int], days: int, resamples: int) -> list[contract.Row]:
    """One row per way of feeding."""
    made: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in FEEDS}
    waited: dict[str, list[np.ndarray]] = {name: [] for name in FEEDS}
    rates: dict[str, float] = {}
    for seed in seeds:
        one = world(np.random.default_rng([seed, null]), null, days)
        for name, feeding in FEEDS.items():
            feed = feeding(one)
            tried = {rate: learnt(one, feed, rate, seed) for rate in ([rates[name]] if name in rates else RATES)}
            tuned = {rate: by_account(one, said, TUNED_FROM, MEASURED_FROM)["divergence"].mean() for rate, said in tried.items()}
            rates[name] = min(tuned, key=lambda rate: tuned[rate])
            made[name].append(by_account(one, tried[rates[name]], MEASURED_FROM, days))
            late = one.shown.time_ms >= MEASURED_FROM * DAY_MS
            sums = np.bincount(one.shown.account[late], weights=feed.wait_ms[late] / HOUR_MS, minlength=ACCOUNTS)
            waited[name].append(sums / np.bincount(one.shown.account[late], minlength=ACCOUNTS))
    return [_row(name, made, waited, rates, resamples) for name in FEEDS]


def _row(
    name: str, made: Mapping[str, list[dict[str, np.ndarray]]], waited: Mapping[str, list[np.ndarray]],
    rates: Mapping[str, float], resamples: int,
) -> contract.Row:  # fmt: skip
    bursts = np.arange(ACCOUNTS) % 2 == 0
    row: contract.Row = {"feed": name, "rate": rates[name]}
    for kind, of in (("bursts", bursts), ("steady", ~bursts)):
        row[f"wait_hours_{kind}"] = float(np.mean([its[of] for its in waited[name]]))
        for what in ("divergence", "bias"):
            mine, ours = (np.concatenate([its[what][of] for its in made[feed]]) for feed in (name, OURS))
            row[f"{what}_{kind}"] = float(mine.mean())
            if name != OURS:
                more = paired_interval(mine, ours, resamples)
                row |= {f"{what}_{kind}_more": more.difference, f"{what}_{kind}_low": more.low, f"{what}_{kind}_high": more.high}
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--days", type=int, default=DAYS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for null in (False, True):
        rows += [{"null": null} | row for row in measured(null, options.seeds, options.days, options.resamples)]
    size = {"seeds": options.seeds, "rates": RATES, "days": options.days, "accounts": ACCOUNTS, "impressions_a_day": ACCOUNTS * A_DAY}
    contract.publish("delayed_feedback", size, rows, {}, options.results)


if __name__ == "__main__":
    main()

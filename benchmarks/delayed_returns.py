"""How long should a return be waited for? Delayed feedback in a shop's real invoices.

    python -m benchmarks.delayed_returns --data ../shared/data

UCI Online Retail: a purchase is shown, its cancellation is the response. A cancelled line belongs to the customer's last earlier purchase
of the same article that is not cancelled yet. An account is a group of articles that begin with the same two characters. The same ranking
model as in benchmarks.delayed_feedback learns every twelve hours, fed by waiting by variance, without a wait, or with one wait for all, and
predicts each window before it learns it. In the null twin each return's delay is drawn anew from all delays, so that no group reports
otherwise than another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from alure_spark import metrics
from alure_spark.clock import DAY_MS, HOUR_MS, NEVER_MS
from alure_spark.training.delayed_feedback import Shown, samples, waits
from benchmarks import contract
from benchmarks.delayed_feedback import ACCOUNTS, FEATURES, Feed, World, cross_entropy, learnt

SEEDS = (7, 8, 9)
RATES = (1e-3, 4e-3, 1.6e-2)
WINDOW_MS = 12 * HOUR_MS
START_DAY, TUNED_FROM, MEASURED_FROM = 60, 90, 150  # all are fed after MATURE_MS before the first of these days
SETTLED_DAYS = 70  # purchases of the last days of the log are not measured: nine returns in ten come within 67 days
MATURE_MS = 30 * DAY_MS
CHOICES_MS = tuple(days * DAY_MS for days in (0, 3, 7, 14, 30))
HISTORY_DAYS, MOST_UNREST = 28, 0.3
LONGEST_MS = 90 * DAY_MS  # of returns that waits are chosen by
PRICES, QUANTITIES = 5, 4  # quantiles, together FEATURES
OURS = "wait by variance"
FIXED = {"no wait": 0, "7 days for all": 7, "30 days for all": 30}


def purchases(table: pd.DataFrame) -> World:
    """The purchases with a customer, by time; `truth` is whether they were returned."""
    table = table[table["CustomerID"].notna()].sort_values(["InvoiceDate", "InvoiceNo", "StockCode"], kind="stable", ignore_index=True)
    cancelled = table["InvoiceNo"].astype(str).str.startswith("C")
    bought = table[~cancelled & (table["Quantity"] > 0)].reset_index(drop=True)
    time_ms = bought["InvoiceDate"].to_numpy("datetime64[ms]").astype(np.int64)
    known_ms = returned(bought, table[cancelled])
    begin = time_ms.min() // DAY_MS * DAY_MS
    group = bought["StockCode"].astype(str).str[:2]
    largest = group.value_counts().index[: ACCOUNTS - 1]
    account = pd.Categorical(group, categories=largest).codes.astype(np.int64)
    feature = quantile(bought["UnitPrice"], PRICES) * QUANTITIES + quantile(bought["Quantity"], QUANTITIES)
    shown = Shown(time_ms - begin, np.where(account < 0, ACCOUNTS - 1, account), np.where(known_ms == NEVER_MS, NEVER_MS, known_ms - begin))
    return World(shown, (known_ms != NEVER_MS).astype(np.float64), feature)


def returned(bought: pd.DataFrame, cancelled: pd.DataFrame) -> np.ndarray:
    """(n,) int64: when each purchase was cancelled, epoch ms, NEVER_MS where it was not. Both by time."""
    open_ones: dict[tuple[float, str], list[int]] = {}
    known_ms = np.full(len(bought), NEVER_MS)
    events = [(time, 0, place, key) for place, (time, key) in enumerate(_keyed(bought))]
    events += [(time, 1, place, key) for place, (time, key) in enumerate(_keyed(cancelled))]
    for time, is_return, place, key in sorted(events):
        if not is_return:
            open_ones.setdefault(key, []).append(place)
        elif open_ones.get(key):
            known_ms[open_ones[key].pop()] = time
    return known_ms


def _keyed(table: pd.DataFrame) -> list[tuple[int, tuple[float, str]]]:
    times = table["InvoiceDate"].to_numpy("datetime64[ms]").astype(np.int64).tolist()
    return list(zip(times, zip(table["CustomerID"].tolist(), table["StockCode"].astype(str), strict=True), strict=True))


def quantile(values: pd.Series, parts: int) -> np.ndarray:
    """(n,) int64 of 0 to parts - 1."""
    return np.searchsorted(np.quantile(values, np.arange(1, parts) / parts), values.to_numpy(), side="right")


def null_twin(one: World, random: np.random.Generator) -> World:
    """The same purchases and returns, each with the delay of another return."""
    answered = np.flatnonzero(one.truth)
    delay = one.shown.known_ms[answered] - one.shown.time_ms[answered]
    known_ms = one.shown.known_ms.copy()
    known_ms[answered] = one.shown.time_ms[answered] + random.permutation(delay)
    return replace(one, shown=replace(one.shown, known_ms=known_ms))


def fed(one: World, wait_ms: np.ndarray) -> Feed:
    whole = np.where(one.shown.time_ms < START_DAY * DAY_MS, MATURE_MS, wait_ms)
    return Feed(samples(one.shown, whole), whole, cross_entropy)


def by_variance(one: World) -> Feed:
    """Each group's wait is chosen anew at midnight, by what is known then."""
    time_ms = one.shown.time_ms
    wait_ms = np.zeros(len(time_ms), np.int64)
    for today in range(START_DAY, int(time_ms[-1] // DAY_MS) + 1):
        first, last, end = np.searchsorted(time_ms, [today * DAY_MS - LONGEST_MS, today * DAY_MS, (today + 1) * DAY_MS])
        past = Shown(*(column[first:last] for column in (time_ms, one.shown.account, one.shown.known_ms)))
        chosen = waits(past, ACCOUNTS, today * DAY_MS, CHOICES_MS, HISTORY_DAYS, DAY_MS, MOST_UNREST)
        wait_ms[last:end] = chosen[one.shown.account[last:end]]
    return fed(one, wait_ms)


def feeds(one: World) -> dict[str, Feed]:
    return {OURS: by_variance(one)} | {name: fed(one, np.full(len(one.truth), days * DAY_MS)) for name, days in FIXED.items()}


def nats(one: World, said: np.ndarray) -> np.ndarray:
    """(n,) float64 cross entropy of each prediction with what became of the purchase in the end."""
    said = np.clip(said, 1e-9, 1 - 1e-9)
    return -np.where(one.truth == 1, np.log(said), np.log1p(-said))


def between(one: World, first_day: int, last_day: int) -> np.ndarray:
    """Which purchases were made in these days."""
    return np.flatnonzero((one.shown.time_ms >= first_day * DAY_MS) & (one.shown.time_ms < last_day * DAY_MS))


def until(one: World, day: int) -> World:
    """The purchases of the days before, with all that became of them."""
    count = len(between(one, 0, day))
    shown = Shown(*(column[:count] for column in (one.shown.time_ms, one.shown.account, one.shown.known_ms)))
    return World(shown, one.truth[:count], one.feature[:count])


def measured(one: World, seeds: Sequence[int], resamples: int) -> list[contract.Row]:
    """One row per way of feeding: the learning rate is that with the least cross entropy on days before those that are measured."""
    last_day = int(one.shown.time_ms[-1] // DAY_MS) - SETTLED_DAYS
    one = until(one, last_day)
    tuned, kept = between(one, TUNED_FROM, MEASURED_FROM), between(one, MEASURED_FROM, last_day)
    share = one.truth[kept].mean()
    least = -(share * np.log(share) + (1 - share) * np.log1p(-share))  # nats of who knows the share of returns alone
    _, day = np.unique(one.shown.time_ms[kept] // DAY_MS, return_inverse=True)
    rows, by_day = list[contract.Row](), dict[str, np.ndarray]()
    for name, feed in feeds(one).items():
        tried = {rate: learnt(one, feed, rate, seeds[0], WINDOW_MS) for rate in RATES}
        rate = min(tried, key=lambda rate: nats(one, tried[rate])[tuned].mean())
        said = np.stack([tried[rate], *(learnt(one, feed, rate, seed, WINDOW_MS) for seed in seeds[1:])])
        lost = np.mean([nats(one, each)[kept] for each in said], axis=0) / least
        by_day[name] = np.bincount(day, lost) * (day.max() + 1) / len(kept)  # their mean is that of the purchases
        row: contract.Row = {"feed": name, "rate": rate, "wait_days": float(feed.wait_ms[kept].mean() / DAY_MS)}
        row |= {"ne": float(lost.mean()), "calibration": float(said[:, kept].mean() / share)}
        if name != OURS:
            more = metrics.paired_interval(by_day[name], by_day[OURS], resamples)
            row |= {"ne_more": more.difference, "ne_low": more.low, "ne_high": more.high}
        rows.append(row)
        print(contract.table([row]), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--data", type=Path, required=True, help="folder of online_retail.parquet")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    one = purchases(pd.read_parquet(options.data / "online_retail.parquet"))
    rows: list[dict[str, Any]] = []
    for null in (False, True):
        of = null_twin(one, np.random.default_rng(options.seeds[0])) if null else one
        rows += [{"null": null} | row for row in measured(of, options.seeds, options.resamples)]
    delay = (one.shown.known_ms - one.shown.time_ms)[one.truth == 1] / DAY_MS
    size = {
        "seeds": options.seeds, "rates": RATES, "purchases": len(one.truth), "returned": int(one.truth.sum()), "accounts": ACCOUNTS,
        "features": FEATURES, "delay_median_days": float(np.median(delay)), "delay_90_days": float(np.quantile(delay, 0.9)),
    }  # fmt: skip
    contract.publish("delayed_returns", size, rows, {}, options.results)


if __name__ == "__main__":
    main()

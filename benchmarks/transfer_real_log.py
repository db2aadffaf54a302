"""From purchases to what was shown: labelled impressions, users with their histories, and counts as of each midnight.

For the real sets of benchmarks/transfer_real.py. Purchases say what was bought, not what was seen and left. So each order is labelled
rows: some of its items, and for each of them other items that were on offer, drawn by how much was sold of them lately.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.vocabulary import ACCOUNT, ITEM
from alure_spark.clock import DAY_MS

Random = np.random.Generator
PURCHASE = "purchase"  # the stream of the user model
RECENT_DAYS = 28  # whose sales say how popular an item is
DRAWS = 50  # at most, until an order has as many other items as it shall have


@dataclass(frozen=True)
class Purchases:
    """n purchases, by user and time: each item once per user and day. An order is what a user bought on one day."""

    user: np.ndarray  # (n,) int64 from 0 on
    item: np.ndarray  # (n,) int64 from 0 on
    time_ms: np.ndarray  # (n,) int64: when the item was first bought on that day
    order_ms: np.ndarray  # (n,) int64: when the first item was

    @classmethod
    def of(cls, user: np.ndarray, item: np.ndarray, time_ms: np.ndarray) -> Purchases:
        """From one row per purchase (n,), in any order and with repetitions."""
        order = np.lexsort((item, time_ms, user))
        user, item, time_ms = (np.asarray(one, np.int64)[order] for one in (user, item, time_ms))
        _, first, of_order = np.unique(np.stack([user, time_ms // DAY_MS]), axis=1, return_index=True, return_inverse=True)
        of_order = of_order.ravel()
        _, kept = np.unique(np.stack([of_order, item]), axis=1, return_index=True)
        kept = np.sort(kept)
        return cls(user[kept], item[kept], time_ms[kept], time_ms[first][of_order][kept])

    def select(self, rows: np.ndarray) -> Purchases:
        """Those of a mask or of row numbers."""
        return Purchases(*(getattr(self, one.name)[rows] for one in fields(self)))

    @property
    def day(self) -> np.ndarray:
        """(n,) int64 days since 1970."""
        day: np.ndarray = self.order_ms // DAY_MS
        return day


@dataclass(frozen=True)
class Shown:
    """n labelled impressions, by user and time."""

    user: np.ndarray  # (n,) int64
    item: np.ndarray  # (n,) int64
    time_ms: np.ndarray  # (n,) int64: of the order
    label: np.ndarray  # (n,) float64: 1 where it was bought

    def select(self, rows: np.ndarray) -> Shown:
        """Those of a mask or of row numbers."""
        return Shown(*(getattr(self, one.name)[rows] for one in fields(self)))

    def and_of(self, other: Shown) -> Shown:
        """Both, by user and time."""
        both = Shown(*(np.concatenate([getattr(self, one.name), getattr(other, one.name)]) for one in fields(self)))
        return both.select(np.lexsort((both.time_ms, both.user)))


def shown_of(bought: Purchases, market: Purchases, draw: Random, positives: int, negatives: int, share: float = 1.0) -> Shown:
    """Of a share of the orders, each at most `positives` items that it holds, and for each of them `negatives` that it does not hold.

    On offer are the items that some user of `bought` had before the order's midnight. The others are drawn by the orders of `market` that
    held them in the RECENT_DAYS before that midnight, plus one; none twice. Where too few are on offer, an order has fewer.
    """
    items = int(max(bought.item.max(), market.item.max())) + 1
    begins, parts = first_days(bought, items), []
    by_day = np.split(np.argsort(bought.day, kind="stable"), np.flatnonzero(np.diff(np.sort(bought.day))) + 1)
    for rows in by_day:
        today = bought.day[rows[0]]
        offered = np.flatnonzero(begins < today)
        orders, key = bought.user[rows], bought.user[rows] * items + bought.item[rows]
        chosen = draw.random(orders.max() + 1) < share
        some = draw.permutation(np.flatnonzero((begins[bought.item[rows]] < today) & chosen[orders]))
        some = some[_place_within(orders[some]) < positives]
        if not len(some):
            continue
        held = np.bincount(market.item[(market.day < today) & (market.day >= today - RECENT_DAYS)], minlength=items)[offered] + 1.0
        others = _others(np.repeat(orders[some], negatives), key, offered, held / held.sum(), items, draw)
        time_of = dict(zip(orders.tolist(), bought.order_ms[rows].tolist(), strict=True))
        user = np.concatenate([orders[some], others // items])
        item = np.concatenate([bought.item[rows][some], others % items])
        label = np.concatenate([np.ones(len(some)), np.zeros(len(others))])
        parts.append((user, item, np.array([time_of[one] for one in user.tolist()], np.int64), label))
    all_ = Shown(*map(np.concatenate, zip(*parts, strict=True)))
    return all_.select(np.lexsort((all_.item, all_.time_ms, all_.user)))


def first_days(bought: Purchases, items: int) -> np.ndarray:
    """(items,) int64: the day on which each item was first bought; the largest number where it was not."""
    begins = np.full(items, np.iinfo(np.int64).max)
    np.minimum.at(begins, bought.item, bought.day)
    return begins


def _place_within(owner: np.ndarray) -> np.ndarray:
    """(n,) int64: how many earlier rows have the same owner (n,)."""
    order = np.argsort(owner, kind="stable")
    lengths = np.unique(owner, return_counts=True)[1]
    place = np.empty(len(owner), np.int64)
    place[order] = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return place


def _others(user: np.ndarray, bought: np.ndarray, offered: np.ndarray, share: np.ndarray, items: int, draw: Random) -> np.ndarray:
    """(at most n,) int64 keys user * items + item of items on offer, one for each of user (n,); none is in bought, none comes twice."""
    key = np.full(len(user), -1)
    missing = np.arange(len(user))
    for _ in range(DRAWS):
        key[missing] = user[missing] * items + draw.choice(offered, len(missing), p=share)
        again = np.ones(len(key), bool)
        again[np.unique(key, return_index=True)[1]] = False
        missing = np.flatnonzero(again | np.isin(key, bought))
        if not len(missing):
            break
    return np.delete(key, missing)


def log_of(bought: Purchases, shown: Shown, users: int, item_row: np.ndarray, account: np.ndarray, account_row: np.ndarray) -> JaggedBatch:
    """Users 0 to users - 1 with what they bought and were shown, as a user model reads it.

    item_row (I,), account_row (A,): rows of its vocabulary, 0 of what it does not know; account (I,): of each item. The integer `ad` of an
    impression is its item.
    """

    def rows(item: np.ndarray) -> dict[str, torch.Tensor]:
        return {ITEM: torch.from_numpy(item_row[item]), ACCOUNT: torch.from_numpy(account_row[account[item]])}

    def offsets(user: np.ndarray) -> torch.Tensor:
        return offsets_of(torch.from_numpy(np.bincount(user, minlength=users)))

    by_user, time_ms = bought.user, torch.from_numpy(bought.time_ms)
    tokens = SourceTokens(offsets(by_user), time_ms, time_ms, rows(bought.item), {})
    count = len(shown.user)
    impressions = Impressions(
        offsets(shown.user), torch.from_numpy(shown.time_ms), rows(shown.item), {}, {"click": torch.from_numpy(shown.label).float()},
        torch.ones(count), torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool),
        integers={"ad": torch.from_numpy(shown.item)},
    )  # fmt: skip
    nobody = torch.zeros(users, dtype=torch.int64)
    end = nobody + int(max(bought.time_ms.max(), shown.time_ms.max())) + 1
    return JaggedBatch("all", tuple(map(str, range(users))), nobody, end, {PURCHASE: tokens}, impressions)


def days_before(key: np.ndarray, day: np.ndarray, asked: np.ndarray, asked_day: np.ndarray, last: int = 0) -> np.ndarray:
    """(n,) float64: how many of the events with key and day (m,) have the asked key (n,) and a day before the asked one (n,).

    last: the days before it that count; 0: all.
    """
    begin = int(min(day.min(), asked_day.min())) - last
    width = int(max(day.max(), asked_day.max())) + 1 - begin
    events = np.sort(key * width + day - begin)

    def until(days: np.ndarray) -> np.ndarray:
        return np.searchsorted(events, asked * width + days - begin)

    since = asked_day - last if last else np.full(len(asked), begin)
    counts: np.ndarray = (until(asked_day) - until(since)).astype(np.float64)
    return counts

"""A world whose users' tastes move slowly while items and ads come and go, on two surfaces, for benchmarks/transfer_drift.py.

On the rich surface users look at items of their taste, and meet ads; the user model learns from it. On the poor one they meet the same ads:
the downstream model learns there, from a few days. Whether a user clicks is decided by taste and ad together. In the null twin the clicks
of the poor surface follow neither, so that no representation can help, however it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.vocabulary import ACCOUNT, ITEM
from alure_spark.clock import DAY_MS

START_MS = 1_736_121_600_000  # 2025-01-06, midnight
TASTES, MOST_DAYS = 6, 40
# Of items and of ads: how many there are on one day, and how many of these are new and take the place of the oldest.
ACTIVE, NEW = {"items": 300, "ads": 60}, {"items": 6, "ads": 2}
ITEMS, ADS = (ACTIVE[kind] + NEW[kind] * MOST_DAYS for kind in ACTIVE)  # ever
VIEWS, RICH, POOR = 5, 4, 6  # per user and day: items looked at, ads met on either surface
KEPT = 0.97  # of a taste from day to day, as a correlation: after ten days .74
POPULAR, PULL = 0.3, 1.5  # deviation of how popular an item is; by how much taste decides what is looked at
STRENGTH, QUALITY, RICH_RATE, POOR_RATE = 1.2, 0.5, -1.2, -2.0  # of taste, of the ad itself, and the logits at which clicks begin


@dataclass(frozen=True)
class DriftWorld:
    """U users over D days; items and ads are numbers from 0. Times are ms after START_MS, ascending within a user and day."""

    viewed: np.ndarray  # (D, U, VIEWS) int64 items
    viewed_at: np.ndarray  # (D, U, VIEWS) int64
    rich: np.ndarray  # (D, U, RICH) int64 ads
    rich_at: np.ndarray  # (D, U, RICH) int64
    rich_clicks: np.ndarray  # (D, U, RICH) bool
    poor: np.ndarray  # (D, U, POOR) int64
    poor_truth: np.ndarray  # (D, U, POOR) float64: how likely the click is
    poor_clicks: np.ndarray  # (D, U, POOR) bool
    null_clicks: np.ndarray  # (D, U, POOR) bool: as many, but nothing decides them

    @property
    def users(self) -> int:
        return self.viewed.shape[1]


def drawn(random: np.random.Generator, users: int, days: int) -> DriftWorld:
    """A world; all that is random comes from `random`."""
    if days > MOST_DAYS:
        raise ValueError(f"{days} days; allowed: at most {MOST_DAYS}")
    items, ads = (random.normal(size=(count, TASTES)) / np.sqrt(TASTES) for count in (ITEMS, ADS))
    popular, quality = random.normal(0, POPULAR, ITEMS), random.normal(0, QUALITY, ADS)
    taste = random.normal(size=(users, TASTES))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in DriftWorld.__dataclass_fields__}
    for day in range(days):
        taste = KEPT * taste + np.sqrt(1 - KEPT**2) * random.normal(size=taste.shape) if day else taste
        there, shown = (active(kind, day) for kind in ACTIVE)
        score = (PULL * taste @ items.T + popular)[:, there]
        luck = -np.log(-np.log(random.random((users, VIEWS, score.shape[1]))))  # the largest of score + luck: a softmax of the score
        parts["viewed"].append(there.start + (score[:, None] + luck).argmax(axis=2))
        parts["viewed_at"].append(_moments(random, day, (users, VIEWS)))
        parts["rich_at"].append(_moments(random, day, (users, RICH)))
        for surface, count, rate in (("rich", RICH, RICH_RATE), ("poor", POOR, POOR_RATE)):
            ad = random.integers(shown.start, shown.stop, (users, count))
            logit = rate + STRENGTH * np.einsum("ut,umt->um", taste, ads[ad]) * np.sqrt(TASTES) / 2 + quality[ad]
            truth = 1 / (1 + np.exp(-logit))
            parts[surface].append(ad)
            parts[f"{surface}_clicks"].append(random.random(ad.shape) < truth)
            if surface == "poor":
                parts["poor_truth"].append(truth)
                parts["null_clicks"].append(random.random(ad.shape) < truth.mean())
    return DriftWorld(**{name: np.stack(its) for name, its in parts.items()})


def active(kind: str, day: int) -> slice:
    """Those of a kind that are there on a day, as numbers from 0."""
    return slice(day * NEW[kind], day * NEW[kind] + ACTIVE[kind])


def vocabulary_size(day: int) -> int:
    """Rows of item_id that are known once the day is over; row 0 is the unknown one."""
    return 1 + sum(ACTIVE.values()) + day * sum(NEW.values())


def rows_of(kind: str, numbers: np.ndarray, size: int) -> np.ndarray:
    """Rows of item_id: those of the first day, then what came new day by day, each time the items before the ads; 0 from size on."""
    came = np.maximum(0, -(-(numbers - ACTIVE[kind] + 1) // NEW[kind]))  # the day
    before = ACTIVE["items"] * (kind == "ads"), NEW["items"] * (kind == "ads")
    first = 1 + before[0] + numbers
    later = vocabulary_size(0) + (came - 1) * sum(NEW.values()) + before[1] + numbers - ACTIVE[kind] - (came - 1) * NEW[kind]
    row = np.where(came == 0, first, later)
    return np.where(row < size, row, 0)


def _moments(random: np.random.Generator, day: int, shape: tuple[int, int]) -> np.ndarray:
    return np.sort(random.integers(0, DAY_MS, shape), axis=1) + day * DAY_MS


def histories(world: DriftWorld, first: int, end: int, shown_from: int, validate_from: int, size: int) -> JaggedBatch:
    """What was known of each user before the day `end` from the day `first` on: views, clicks, and the rich impressions from shown_from on.

    Impressions from the day validate_from on are the validation split. size: rows of item_id that the model has.
    """
    days = slice(first, end)
    users, everything = world.users, np.ones((end - first, world.users, VIEWS), bool)
    shown = slice(shown_from, end)
    count = (end - shown_from) * RICH
    ads, at = rows_of("ads", _of_users(world.rich[shown]), size), _of_users(world.rich_at[shown]) + START_MS
    impressions = Impressions(
        offsets=offsets_of(torch.full((users,), count)),
        time_ms=torch.from_numpy(at),
        rows={ITEM: torch.from_numpy(ads), ACCOUNT: torch.zeros(len(ads), dtype=torch.int64)},
        numbers={},
        labels={"click": torch.from_numpy(_of_users(world.rich_clicks[shown])).float()},
        weight=torch.ones(len(ads)),
        label_age_ms=torch.zeros(len(ads), dtype=torch.int64),
        validation=torch.from_numpy(at >= START_MS + validate_from * DAY_MS),
    )
    clicked = world.rich_clicks[days]
    sources = {
        "view": _tokens(rows_of("items", world.viewed[days], size), world.viewed_at[days], everything),
        "click": _tokens(
            rows_of("ads", world.rich[days], size), world.rich_at[days] + 1, clicked
        ),  # a click is known just after its impression
    }
    nobody = torch.zeros(users, dtype=torch.int64)
    return JaggedBatch("all", tuple(f"u{user}" for user in range(users)), nobody, nobody + START_MS + end * DAY_MS, sources, impressions)


def _of_users(days: np.ndarray) -> np.ndarray:
    """(U * D * n,) of (D, U, n): users one after the other."""
    return days.transpose(1, 0, 2).ravel()


def _tokens(rows: np.ndarray, at: np.ndarray, there: np.ndarray) -> SourceTokens:
    kept = _of_users(there)
    known = torch.from_numpy(_of_users(at)[kept] + START_MS)
    lengths = there.transpose(1, 0, 2).reshape(rows.shape[1], -1).sum(axis=1)
    return SourceTokens(offsets_of(torch.from_numpy(lengths)), known, known, {ITEM: torch.from_numpy(_of_users(rows)[kept])}, {})


def poor_impressions(
    world: DriftWorld, first: int, end: int, null: bool, vectors: dict[str, np.ndarray], validation: np.ndarray | bool, known: slice
) -> JaggedBatch:
    """The impressions of the poor surface from the day `first` to before `end`, with their representations.

    vectors: field -> (U * days * POOR, its numbers) in the order of users, days, impressions. validation (U,) bool: users that validate.
    known: the ads, as numbers from 0, that have an id of their own; others are the unknown one.
    """
    days, users = slice(first, end), world.users
    ads = _of_users(world.poor[days])
    ids = np.where((ads >= known.start) & (ads < known.stop), 1 + ads, 0)
    clicks = (world.null_clicks if null else world.poor_clicks)[days]
    per_user = (end - first) * POOR
    at = START_MS + (np.repeat(np.arange(first, end), POOR) * DAY_MS + np.tile(np.arange(1, 1 + POOR), end - first))
    shown = Impressions(
        offsets=offsets_of(torch.full((users,), per_user)),
        time_ms=torch.from_numpy(np.tile(at, users)),
        rows={"ad": torch.from_numpy(ids)},
        numbers={},
        labels={"click": torch.from_numpy(_of_users(clicks)).float()},
        weight=torch.ones(len(ads)),
        label_age_ms=torch.zeros(len(ads), dtype=torch.int64),
        validation=torch.from_numpy(np.repeat(np.broadcast_to(validation, users), per_user)),
        vectors={name: torch.from_numpy(its.astype(np.float32)) for name, its in vectors.items()},
    )
    nobody = torch.zeros(users, dtype=torch.int64)
    return JaggedBatch("all", tuple(f"u{user}" for user in range(users)), nobody, nobody + START_MS + end * DAY_MS, {}, shown)

"""Two surfaces that show the same ads to the same users: a rich one, on which a user model learns, and a poor one, which opens later.

Enters: a generator of random numbers and how many users. Leaves: the log of the rich surface as users with events and impressions, and
the rows of the poor one with their true probability of a response. Users and ads have latent numbers. On the rich surface the logit is
linear in their product; on the poor one it saturates, and the place of the ad counts as well.
In the null twin the poor surface has the tastes of other users and the makings of other ads: as many of each kind, all of them elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.vocabulary import ACCOUNT, ITEM
from alure_spark.clock import DAY_MS
from benchmarks.ranking_sets import RankingRows

Random = np.random.Generator
BEGIN_MS = 1_736_121_600_000  # 2025-01-06, midnight: the first day of the rich surface
OPENS, CUT, END = 30, 44, 54  # days: the poor surface opens and the user model is trained; the ranking model is trained; the log ends
FIRST_DAYS = 4  # of an advertiser on the poor surface, in which it is cold
LATE_SHARE = 0.4  # of the advertisers: they come to the poor surface after the cut
ACCOUNTS, ADS_PER_ACCOUNT, LATENT, PLACES = 50, 4, 4, 3
RICH, POOR = 100, 12  # impressions of a user, mean
CLICK, SHOWN = "ad_click", "ad_impression"  # streams of the rich surface


@dataclass(frozen=True)
class Latents:
    """What decides the responses on one surface."""

    user: np.ndarray  # (U, LATENT) taste
    user_level: np.ndarray  # (U,) how easily a user responds
    ad: np.ndarray  # (A, LATENT) what an ad is about
    ad_level: np.ndarray  # (A,) how good an ad is

    def match(self, user: np.ndarray, ad: np.ndarray) -> np.ndarray:
        """(n,) about standard normal, of users (n,) and ads (n,)."""
        product: np.ndarray = (self.user[user] * self.ad[ad]).sum(axis=1) / LATENT**0.5
        return product

    def level(self, user: np.ndarray, ad: np.ndarray) -> np.ndarray:
        """(n,) what both add whatever the match."""
        level: np.ndarray = self.user_level[user] + self.ad_level[ad]
        return level

    def of_others(self, draw: Random) -> Latents:
        """Those of other users and ads; the ads of an advertiser get those of one other advertiser."""
        users, accounts = draw.permutation(len(self.user)), draw.permutation(len(self.ad) // ADS_PER_ACCOUNT)
        ads = (accounts[:, None] * ADS_PER_ACCOUNT + np.arange(ADS_PER_ACCOUNT)).ravel()
        return Latents(self.user[users], self.user_level[users], self.ad[ads], self.ad_level[ads])


@dataclass(frozen=True)
class TwoSurfaces:
    """The log of the rich surface, and n rows of the poor one."""

    upstream: JaggedBatch  # U users in order of their number; the ad of row r is ad r - 1
    rows: RankingRows  # by time; its user is the number of the user, its category `ad` the number of the ad
    truth: np.ndarray  # (n,) float64: how likely the response is
    cold: np.ndarray  # (n,) bool: the advertiser is in its first days on the poor surface

    @property
    def ads(self) -> tuple[np.ndarray, np.ndarray]:
        """(A,) int64 each: rows of the vocabulary of all ads, and of their accounts."""
        ads = np.arange(ACCOUNTS * ADS_PER_ACCOUNT)
        return ads + 1, ads // ADS_PER_ACCOUNT + 1


def two_surfaces(draw: Random, users: int, null: bool) -> TwoSurfaces:
    """The world, or its null twin; both draw the same rich surface, and the same impressions on the poor one."""
    latents = _latents(draw, users)
    upstream = _rich(draw, latents)
    others = latents.of_others(draw)  # drawn in both, so that what follows is the same
    rows, truth, cold = _poor(draw, others if null else latents)
    return TwoSurfaces(upstream, rows, truth, cold)


def _latents(draw: Random, users: int) -> Latents:
    account = np.repeat(draw.normal(size=(ACCOUNTS, LATENT)), ADS_PER_ACCOUNT, axis=0)
    ad = 0.8 * account + 0.6 * draw.normal(size=account.shape)
    levels = draw.normal(scale=0.6, size=users), draw.normal(scale=0.6, size=len(ad))
    return Latents(draw.normal(size=(users, LATENT)), levels[0], ad, levels[1])


def _rich(draw: Random, latents: Latents) -> JaggedBatch:
    user, ad, time_ms = _impressions(draw, latents, RICH, 0)
    logit = -1.5 + 1.8 * latents.match(user, ad) + latents.level(user, ad)
    clicked = draw.random(len(user)) < _sigmoid(logit)
    users = len(latents.user)
    rows = {ITEM: torch.from_numpy(ad + 1), ACCOUNT: torch.from_numpy(ad // ADS_PER_ACCOUNT + 1)}

    def tokens(kept: np.ndarray) -> SourceTokens:
        times = torch.from_numpy(time_ms[kept])
        lengths = torch.from_numpy(np.bincount(user[kept], minlength=users))
        return SourceTokens(offsets_of(lengths), times, times, {name: its[torch.from_numpy(kept)] for name, its in rows.items()}, {})

    shown = Impressions(
        offsets_of(torch.from_numpy(np.bincount(user, minlength=users))), torch.from_numpy(time_ms), rows, {},
        {"click": torch.from_numpy(clicked).float()}, torch.ones(len(user)), torch.zeros(len(user), dtype=torch.int64),
        torch.zeros(len(user), dtype=torch.bool),
    )  # fmt: skip
    nobody = torch.zeros(users, dtype=torch.int64)
    sources = {CLICK: tokens(clicked), SHOWN: tokens(np.ones(len(user), bool))}
    return JaggedBatch("all", tuple(map(str, range(users))), nobody, nobody + BEGIN_MS + END * DAY_MS, sources, shown)


def _poor(draw: Random, latents: Latents) -> tuple[RankingRows, np.ndarray, np.ndarray]:
    starts = np.where(draw.random(ACCOUNTS) < LATE_SHARE, draw.integers(CUT, END - FIRST_DAYS + 1, ACCOUNTS), OPENS)
    user, ad, time_ms = _impressions(draw, latents, POOR, OPENS)
    since = time_ms - BEGIN_MS - starts[ad // ADS_PER_ACCOUNT] * DAY_MS
    kept = np.flatnonzero(since >= 0)
    kept = kept[np.argsort(time_ms[kept], kind="stable")]
    user, ad, time_ms, since = user[kept], ad[kept], time_ms[kept], since[kept]
    place = draw.integers(0, PLACES, len(user))
    logit = -2.0 + 2.2 * np.tanh(1.8 * latents.match(user, ad)) + latents.level(user, ad) + 0.5 * place
    truth = _sigmoid(logit)
    label = (draw.random(len(user)) < truth).astype(np.float64)
    categories = {"ad": ad, "account": ad // ADS_PER_ACCOUNT, "place": place}
    rows = RankingRows(
        "two surfaces", user, time_ms, {name: ids.astype(str).astype(object) for name, ids in categories.items()}, {},
        label, label, time_ms < BEGIN_MS + CUT * DAY_MS,
    )  # fmt: skip
    return rows, truth, (since < FIRST_DAYS * DAY_MS) & (starts[ad // ADS_PER_ACCOUNT] > OPENS)


def _impressions(draw: Random, latents: Latents, mean: int, first_day: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(user, ad, time_ms) (n,) int64 each, users in order, by time within a user; how many a user has is lognormal."""
    counts = np.maximum(1, np.round(draw.lognormal(np.log(mean) - 0.125, 0.5, len(latents.user)))).astype(np.int64)
    user = np.repeat(np.arange(len(counts)), counts)
    time_ms = draw.integers(BEGIN_MS + first_day * DAY_MS, BEGIN_MS + END * DAY_MS, len(user))
    return user, draw.integers(0, len(latents.ad), len(user)), time_ms[np.lexsort((time_ms, user))]


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    probability: np.ndarray = 1 / (1 + np.exp(-logit))
    return probability

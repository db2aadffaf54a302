"""Thirty days of requests in which ads come that nobody has seen: what a click is worth is known, so that regret is, too.

Enters: a generator of random numbers. Leaves: ads with content, the true probability of a click per group of users and ad, when each ad may
first be shown, the impressions that a ranking model learnt from before, and the requests.

Kinds: `cold` (new ads, of content unlike that of the known ones), `few` (the same with a fifth of the requests), `known` (no new ads come:
exploration can only cost) and `equal` (new ads, but every ad is as good as any other: nothing can be gained or lost).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.ranking_worlds import SHARES, Drawn

KINDS = ("cold", "few", "known", "equal")
DAYS, REQUESTS, FEW = 30, 500, 100  # requests a day
GROUPS, CONTENT = 4, 8  # groups of users; numbers of an ad's content
KNOWN, COLD = 40, 60  # ads before the first day, and those that come on days 0, 1, ..., LAST
LAST = 14
SHOWN, EACH = 600, 20  # users before the first day, and impressions of each
RATE, STRENGTH = -3.0, 1.0  # logit of a middling ad; standard deviation of logits over ads
WAVES = 40  # cosines whose sum is the law of a group
OWN, SHARED = 0.6, 0.6  # of the variance of logits: what an ad has of its own, whatever its content; of each part, alike for all groups


@dataclass(frozen=True)
class World:
    """What happens in thirty days, whatever is shown."""

    content: np.ndarray  # (A, CONTENT) float64
    truth: np.ndarray  # (GROUPS, A) float64: how likely a click is
    arrives: np.ndarray  # (A,) int64: the first day on which an ad may be shown; -1: it was shown before
    groups: np.ndarray  # (DAYS, requests) int64: of the user of each request
    luck: np.ndarray  # (DAYS, requests) float64: a click comes where it lies below the truth of the ad shown
    history: Drawn  # impressions of ads that were known, chosen at random

    @property
    def ads(self) -> int:
        return len(self.arrives)

    def alive(self, day: int) -> np.ndarray:
        """Ads that may be shown on the day, ascending."""
        return np.flatnonzero(self.arrives <= day)

    def contexts(self) -> Drawn:
        """An impression of every ad to every group: row group * ads + ad."""
        group, ad = (one.ravel() for one in np.mgrid[:GROUPS, : self.ads])
        return _impressions(self.truth, self.content, group[None], ad[None], np.zeros((1, len(ad)), bool), (0, 0, 1))


def drawn(random: np.random.Generator, kind: str) -> World:
    """A world of one of KINDS."""
    count = KNOWN + (0 if kind == "known" else COLD)
    arrives = np.r_[np.full(KNOWN, -1), np.sort(np.arange(COLD) % (LAST + 1))][:count]
    content = random.normal(size=(KNOWN + COLD, CONTENT))
    by_content, by_ad = _alike([_law(random, content) for _ in range(GROUPS + 1)]), _alike(random.normal(size=(GROUPS + 1, len(content))))
    logits = (1 - OWN) ** 0.5 * by_content + OWN**0.5 * by_ad
    truth = 1 / (1 + np.exp(-(RATE + STRENGTH * logits[:, :count])))
    content = content[:count]
    if kind == "equal":
        truth = np.full_like(truth, truth.mean())
    users = random.integers(0, GROUPS, SHOWN)
    group, ad = np.repeat(users[:, None], EACH, axis=1), random.integers(0, KNOWN, (SHOWN, EACH))
    training = round(SHARES[0] / (SHARES[0] + SHARES[1]) * SHOWN)
    clicks = random.random(group.shape) < truth[group, ad]
    history = _impressions(truth, content, group, ad, clicks, (training, SHOWN - training, 0))
    requests = (DAYS, FEW if kind == "few" else REQUESTS)
    return World(content, truth, arrives, random.integers(0, GROUPS, requests), random.random(requests), history)


def _alike(parts: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """(GROUPS, A): each of the first parts mixed with the last one, which is the same for all groups."""
    return np.stack([SHARED**0.5 * parts[-1] + (1 - SHARED) ** 0.5 * one for one in parts[:-1]])


def _law(random: np.random.Generator, content: np.ndarray) -> np.ndarray:
    """(A,) a smooth random function of content, of about mean 0 and deviation 1."""
    waves, phase = random.normal(size=(content.shape[1], WAVES)) / CONTENT**0.5, random.uniform(0, 2 * np.pi, WAVES)
    return (2 / WAVES) ** 0.5 * np.cos(content @ waves + phase).sum(axis=1)


def _impressions(
    truth: np.ndarray, content: np.ndarray, group: np.ndarray, ad: np.ndarray, clicks: np.ndarray, parts: tuple[int, int, int]
) -> Drawn:
    return Drawn(truth[group, ad], clicks, parts, rows={"group": group + 1}, vectors={"content": content[ad]})

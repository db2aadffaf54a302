"""What a model that learns through the day is fed, and when: how long each account's responses are waited for (Pan et al., section 6.3).

Enters: impressions with the account, when each was shown, and when its response became known. Leaves: samples in the order in which the
model gets them. An impression goes out after its account's wait, with the label as it is known then. A response that comes later corrects
it: the sample is taken back as a negative and given as a positive, so that in the end each impression has counted once, as what it was.

The paper gives no formula for the wait. Here it is the shortest one with which what the account's samples said, window by window, would
have stayed near its rate: accounts that report steadily are learnt from at once, those that report in bursts are waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..clock import NEVER_MS

NEVER = NEVER_MS  # when the response of an impression without one becomes known


@dataclass(frozen=True)
class Shown:
    """n impressions of one task, in any order."""

    time_ms: np.ndarray  # (n,) int64 when it was shown
    account: np.ndarray  # (n,) int64 number of the account
    known_ms: np.ndarray  # (n,) int64 when its response became known, NEVER without one
    logged_ms: np.ndarray | None = None  # (n,) int64 when the impression itself became known; None: when it was shown

    def __post_init__(self) -> None:
        if (self.known_ms < self.since_ms).any():
            raise ValueError("a response was known before its impression was shown, or before that was known")

    @property
    def since_ms(self) -> np.ndarray:
        """(n,) int64 from when on the impression is known."""
        return self.time_ms if self.logged_ms is None else self.logged_ms


@dataclass(frozen=True)
class Samples:
    """What the model is fed, by time; at one time in the order of the impressions, and taken back before given anew."""

    impression: np.ndarray  # (s,) int64 place among the n impressions
    time_ms: np.ndarray  # (s,) int64 when it goes out
    label: np.ndarray  # (s,) float64 0 or 1
    weight: np.ndarray  # (s,) float64 1, or -1 of a sample that is taken back

    def between(self, first_ms: int, end_ms: int) -> Samples:
        """Those of [first_ms, end_ms)."""
        low, high = np.searchsorted(self.time_ms, [first_ms, end_ms])
        return Samples(*(getattr(self, name)[low:high] for name in ("impression", "time_ms", "label", "weight")))


def samples(shown: Shown, wait_ms: np.ndarray) -> Samples:
    """Of impressions that are waited for by wait_ms (n,) int64 milliseconds, at least 0 each, and until they are known themselves.

    A response that becomes known when the sample goes out is in it.
    """
    out = np.maximum(shown.time_ms + wait_ms, shown.since_ms)
    answered = shown.known_ms <= out
    late = np.flatnonzero(~answered & (shown.known_ms != NEVER))
    impression = np.concatenate([np.arange(len(out)), late, late])
    time_ms = np.concatenate([out, shown.known_ms[late], shown.known_ms[late]])
    label = np.concatenate([answered, np.zeros(len(late)), np.ones(len(late))]).astype(np.float64)
    weight = np.repeat([1.0, -1.0, 1.0], [len(out), len(late), len(late)])
    order = np.lexsort((label, impression, time_ms))
    return Samples(*(column[order] for column in (impression, time_ms, label, weight)))


def waits(
    shown: Shown, accounts: int, now_ms: int, choices_ms: Sequence[int], days: int, window_ms: int, most: float, least_responses: int = 20
) -> np.ndarray:
    """(accounts,) int64: how long each account's impressions are to be waited for, by what was known before now_ms.

    choices_ms: waits to choose from, ascending. For each the samples of the last `days` windows of window_ms are looked at as they would
    have been fed; `unrest` says how far their rate of positives strayed. The first choice with an unrest of at most `most` is taken, else
    that with the least. Accounts with fewer than least_responses in these windows get the first: there is nothing to tell them by.
    """
    begin = now_ms - days * window_ms
    found = []
    for wait in choices_ms:
        fed = samples(shown, np.full(len(shown.time_ms), wait)).between(begin, now_ms)
        place = shown.account[fed.impression] * days + (fed.time_ms - begin) // window_ms
        positives, whole = (
            np.bincount(place, weights=each, minlength=accounts * days).reshape(accounts, days)
            for each in (fed.weight * fed.label, fed.weight)
        )
        found.append(unrest(positives, whole))
    strayed = np.stack(found)  # (choices, accounts)
    calm = strayed <= most
    chosen = np.where(calm.any(axis=0), calm.argmax(axis=0), strayed.argmin(axis=0))
    responses = np.bincount(shown.account[(shown.known_ms >= begin) & (shown.known_ms < now_ms)], minlength=accounts)
    return np.asarray(choices_ms, np.int64)[np.where(responses < least_responses, 0, chosen)]


def unrest(positives: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(accounts,) float64: how far an account's rate strays from window to window beyond chance, as a share of the rate; 0: not at all.

    positives, whole (accounts, windows) float64: samples that a window fed. With the rate r over all windows it is the square root of
    sum((positives - r whole)^2) - sum(r whole), of which the second is what chance (Poisson) makes of it, over sum((r whole)^2). Infinite
    where an account had no positive, for then nothing is known.
    """
    total = whole.sum(axis=1, keepdims=True)
    rate = positives.sum(axis=1, keepdims=True) / np.where(total > 0, total, 1)
    expected = rate * whole
    strayed = ((positives - expected) ** 2).sum(axis=1) - expected.sum(axis=1)
    square = (expected**2).sum(axis=1)
    return np.where(square > 0, np.sqrt(np.clip(strayed, 0, None) / np.where(square > 0, square, 1)), np.inf)

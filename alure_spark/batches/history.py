"""Which tokens are history at a moment (house rule 2), found by bisection on packed tokens.

Enters: the tokens of one source, and R reads: a user and a moment each. Leaves: one run of tokens per read, (first, end). History is
ascending within a user, so what is known before a moment is always such a run, and nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import SourceTokens

USER_SHIFT = 42  # (user << 42) + epoch ms orders the events of all users in one key


@dataclass(frozen=True)
class HistorySpan:
    """Per read the tokens [first, end) of one source: what was known of the user just before the moment."""

    first: Tensor  # (R,) int64: the oldest token that the read may see
    end: Tensor  # (R,) int64: one past the newest token known before the moment

    @property
    def counts(self) -> Tensor:
        """(R,) int64 tokens seen."""
        return self.end - self.first


def moment_key(users: Tensor, time_ms: Tensor) -> Tensor:
    """(n,) int64 that orders (user, time); times before 1970 count as 1970."""
    return (users << USER_SHIFT) + time_ms.clamp(min=0)


def known_ends(tokens: SourceTokens, users: Tensor, time_ms: Tensor) -> Tensor:
    """(R,) int64: one past the user's newest token with known_at < time (clock.known_before, by bisection)."""
    return torch.searchsorted(moment_key(tokens.users(), tokens.known_at_ms), moment_key(users, time_ms))


def history_spans(tokens: SourceTokens, users: Tensor, time_ms: Tensor, last_events: int, last_ms: int | None = None) -> HistorySpan:
    """What each of R reads (user, time_ms), each (R,) int64, may see: the last so many events, and of these, with last_ms, those known in
    the last_ms before the moment."""
    end = known_ends(tokens, users, time_ms)
    first = torch.maximum(end - last_events, tokens.offsets[users])
    if last_ms is not None:
        first = torch.maximum(first, known_ends(tokens, users, time_ms - last_ms))
    return HistorySpan(first, end)


@dataclass(frozen=True)
class SameEvents:
    """Per read those of its events that have the row that it wants: ordered[low : high], oldest first."""

    keys: Tensor  # (n,) int64, ascending: the place of user and row, times `places`, plus the token
    places: int
    low: Tensor  # (R,) int64
    high: Tensor  # (R,) int64; equal to low where the row is the unknown one

    @property
    def ordered(self) -> Tensor:
        """(n,) int64 tokens, grouped by user and row. Whoever only counts does not need them."""
        return self.keys % self.places

    @property
    def counts(self) -> Tensor:
        """(R,) int64."""
        return self.high - self.low


def same_events(tokens: SourceTokens, users: Tensor, span: HistorySpan, space: str, wanted: Tensor) -> SameEvents:
    """The events that each of R reads may see and that have its row of the space, wanted (R,). O(n log n); nothing is copied per read."""
    size = len(tokens.known_at_ms)
    # Only events of rows that somebody was shown matter; a shown (user, row) is numbered, so that place breaks ties in one key.
    spread = int(wanted.max()) + 1 if len(wanted) else 1
    shown_keys, group = torch.unique(users * spread + wanted, return_inverse=True)
    events = torch.where(tokens.rows[space] < spread, tokens.users() * spread + tokens.rows[space], -1)
    place = torch.searchsorted(shown_keys, events).clamp(max=max(0, len(shown_keys) - 1))
    kept = torch.nonzero(shown_keys[place] == events).squeeze(1) if len(shown_keys) else place[:0]
    keys = torch.sort(place[kept] * (size + 1) + kept).values
    low, high = (torch.searchsorted(keys, group * (size + 1) + border) for border in (span.first, span.end))
    return SameEvents(keys, size + 1, low, torch.where(wanted > 0, high, low))

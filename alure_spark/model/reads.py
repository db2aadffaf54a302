"""Which tokens are history at a moment (house rule 2), found by bisection on packed rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import SourceTokens
from .spec import ModelSpec

USER_SHIFT = 42  # (user << 42) + epoch ms orders the events of all users in one key


@dataclass(frozen=True)
class Reads:
    """For R reads (a user and a moment) of one source: which tokens were known then."""

    first: Tensor  # (R,) int64: the oldest token that the read may see (the last max_events, of the last max_days)
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


def reads_of(spec: ModelSpec, source: str, tokens: SourceTokens, users: Tensor, time_ms: Tensor) -> Reads:
    """What each of R reads (user, time_ms), each (R,) int64, may see of the source."""
    end = known_ends(tokens, users, time_ms)
    first = torch.maximum(end - spec.reach(source, tokens.limit), tokens.offsets[users])
    if source in spec.max_days_ms:
        first = torch.maximum(first, known_ends(tokens, users, time_ms - spec.max_days_ms[source]))
    return Reads(first, end)

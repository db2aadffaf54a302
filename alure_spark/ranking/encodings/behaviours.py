"""The behaviours that impressions read, pair by pair: what analysis asks of a history. TIM itself meets them in blocks, which is faster."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...batches.batch import SourceTokens, ranges
from ...batches.history import history_spans


@dataclass(frozen=True)
class Behaviours:
    """The n behaviours that m impressions read, impression by impression, the oldest first."""

    impression: Tensor  # (n,) int64
    token: Tensor  # (n,) int64: which of the source's tokens
    place: Tensor  # (n,) int64: 1 is the newest
    gap_ms: Tensor  # (n,) int64: how long before the impression it happened

    def intervals(self, ends: Tensor) -> Tensor:
        """(n,) int64: 1 up to the first of ends (ascending, inclusive), and so on; the last one is beyond all of them."""
        return torch.bucketize(self.gap_ms, ends) + 1


def read_behaviours(tokens: SourceTokens, users: Tensor, time_ms: Tensor, events: int) -> Behaviours:
    """Of each impression (users, time_ms, both (m,) int64) the last so many events that were known before it."""
    seen = history_spans(tokens, users, time_ms, events)
    counts = seen.counts
    impression = torch.repeat_interleave(torch.arange(len(users)), counts)
    token = ranges(seen.first, counts)
    place = torch.repeat_interleave(counts.cumsum(0), counts) - torch.arange(len(token))
    return Behaviours(impression, token, place, time_ms[impression] - tokens.event_time_ms[token])


def softmax_within(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """(n,): softmax of scores (n,) among those of the same group (n,) int64, 0 to groups - 1."""
    highest = scores.new_full((groups,), -math.inf).scatter_reduce(0, group, scores.detach(), "amax")
    shares = (scores - highest[group]).exp()
    return shares / scores.new_zeros(groups).index_add(0, group, shares)[group]

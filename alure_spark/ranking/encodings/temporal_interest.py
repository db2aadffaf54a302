"""Temporal interest module (TIM; Pan et al., section 3.1, equation 1; Zhou et al. 2023): what a history says of one target, by when.

With e~_i = e_i + p(place of i before the target) + p(how long before it), and v~ likewise for the target itself,
u = sum over i of softmax_i(<e~_i, v~> / sqrt(d)) * (e~_i * v~). The history is jagged: nothing is padded, and each event's vector is read
once per user and not once per impression.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...batches.batch import SourceTokens, ranges
from ...batches.history import history_spans
from ...clock import DAY_MS, HOUR_MS, MINUTE_MS

# Upper ends of the intervals between a behaviour and its target, each about twice the one before, up to a year.
INTERVALS_MS = (
    MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, 2 * HOUR_MS, 4 * HOUR_MS, 8 * HOUR_MS, 16 * HOUR_MS, DAY_MS,
    2 * DAY_MS, 4 * DAY_MS, 7 * DAY_MS, 14 * DAY_MS, 28 * DAY_MS, 60 * DAY_MS, 120 * DAY_MS, 240 * DAY_MS, 365 * DAY_MS,
)  # fmt: skip


class TemporalInterest(nn.Module):
    """One category sequence, in the vectors of one table."""

    ends: Tensor

    def __init__(self, dimension: int, events: int = 50, position: bool = True, interval: bool = True, deviation: float = 0.1) -> None:
        """events: the last so many before the target are read; position, interval: which temporal encodings are added."""
        super().__init__()
        self.events = events
        self.register_buffer("ends", torch.tensor(INTERVALS_MS), persistent=False)
        # Row 0 is the target's; place 1 is the newest event, interval 1 the shortest.
        sizes = (events + 1 if position else 0, len(INTERVALS_MS) + 2 if interval else 0)
        self.places, self.intervals = (
            nn.Parameter(nn.init.normal_(torch.empty(size, dimension), std=deviation)) if size else None for size in sizes
        )

    def forward(self, tokens: SourceTokens, vectors: Tensor, users: Tensor, time_ms: Tensor, targets: Tensor) -> Tensor:
        """(m, d) of m impressions; zeros where the user had no event before.

        vectors (T, d): those of the tokens' categories; users (m,) int64: whose impression; time_ms (m,) int64: events known before it are
        history; targets (m, d): the vectors of the targets' categories.
        """
        read = read_behaviours(tokens, users, time_ms, self.events)
        weights = self.attention(read, vectors, targets)
        # v~ is the same for all of an impression's events, so the sum over them is one of e~ alone.
        found = torch.zeros_like(targets).index_add(0, read.impression, weights[:, None] * vectors[read.token])
        for code, table in self._codes(read):
            share = weights.new_zeros(len(users), len(table)).index_put((read.impression, code), weights, accumulate=True)
            found = found + share @ table
        return found * self._at_its_place(targets)

    def attention(self, read: Behaviours, vectors: Tensor, targets: Tensor) -> Tensor:
        """(n,): the weight of each behaviour that is read; those of an impression sum to 1. vectors, targets: as forward takes them."""
        target = self._at_its_place(targets)
        scores = (vectors[read.token] * target[read.impression]).sum(dim=1)
        for code, table in self._codes(read):  # <e + p, v> = <e, v> + <p, v>: of the few p first, of the many behaviours then
            scores = scores + (target @ table.T)[read.impression, code]
        return softmax_within(scores / math.sqrt(targets.shape[1]), read.impression, len(targets))

    def _at_its_place(self, targets: Tensor) -> Tensor:
        """v~."""
        for table in (self.places, self.intervals):
            targets = targets if table is None else targets + table[0]
        return targets

    def _codes(self, read: Behaviours) -> list[tuple[Tensor, Tensor]]:
        """Of each temporal encoding that is added: the row of each behaviour (n,), and the rows."""
        codes = list[tuple[Tensor, Tensor]]()
        if self.places is not None:
            codes.append((read.place, self.places))
        if self.intervals is not None:
            codes.append((read.intervals(self.ends), self.intervals))
        return codes


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

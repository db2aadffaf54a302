"""Temporal interest module (TIM; Pan et al., section 3.1, equation 1; Zhou et al. 2023): what a history says of one target, by when.

With e~_i = e_i + p(place of i before the target) + p(how long before it), and v~ likewise for the target itself,
u = sum over i of softmax_i(<e~_i, v~> / sqrt(d)) * (e~_i * v~). Histories are jagged, and an event's vector is read once for all
impressions of its user that see it (Blocks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...batches.batch import SourceTokens
from ...batches.history import HistorySpan, history_spans
from ...clock import DAY_MS, HOUR_MS, MINUTE_MS
from .behaviours import Behaviours, softmax_within

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
        spans = history_spans(tokens, users, time_ms, self.events)
        blocks = Blocks.of(users, spans, self.events)
        target = self._at_its_place(targets)
        own, when, first, end = (blocks.spread(each) for each in (target, time_ms, spans.first, spans.end))  # (blocks, size, ...)
        token = blocks.tokens  # (blocks, width)
        seen = (token[:, None] >= first[..., None]) & (token[:, None] < end[..., None])  # (blocks, size, width)
        token = token.clamp(max=len(vectors) - 1)
        met = vectors.index_select(0, token.flatten()).view(*token.shape, vectors.shape[1])
        scores = own @ met.transpose(1, 2)
        codes = []
        if self.places is not None:  # <e + p, v> = <e, v> + <p, v>: of the few p first, of the many pairs then
            codes.append(((end[..., None] - token[:, None]).clamp(0, self.events), self.places))
        if self.intervals is not None:
            gap = when[..., None] - tokens.event_time_ms[token][:, None]
            codes.append((torch.bucketize(gap, self.ends) + 1, self.intervals))
        for code, table in codes:
            scores = scores + (own @ table.T).gather(2, code)
        lowest = torch.finfo(scores.dtype).min
        weights = (scores / math.sqrt(targets.shape[1])).masked_fill(~seen, lowest).softmax(dim=2) * seen  # zeros where nothing is seen
        # v~ is the same for all of an impression's events, so the sum over them is one of e~ alone.
        interest = weights @ met
        for code, table in codes:
            share = weights.new_zeros(*weights.shape[:2], len(table)).scatter_add(2, code, weights)
            interest = interest + share @ table
        return blocks.gathered(interest * own)

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
class Blocks:
    """Impressions of one user side by side, so that the vectors of the events that they share are read once and met in one matrix product.

    A block has at most `size` impressions, the mean number of those that may share one: all blocks together have at most twice as many
    places as there are impressions. Its events span at most twice as many as one impression reads, however long its user's history is.
    """

    place: Tensor  # (m,) int64: of an impression among blocks * size places
    tokens: Tensor  # (blocks, width) int64: those of the block from its first event on; behind its last one those of others
    size: int

    @classmethod
    def of(cls, users: Tensor, spans: HistorySpan, events: int) -> Blocks:
        """users (m,) int64: whose impressions; they share blocks where they come one after the other."""
        m = torch.arange(len(users))
        kind = torch.stack([users, spans.first // events])
        changed = (kind[:, 1:] != kind[:, :-1]).any(dim=0)
        begins = torch.cat([changed.new_ones(len(users[:1])), changed])
        first = m[begins]
        size = max(1, len(users) // max(1, len(first)))
        rank = (m - first[begins.cumsum(0) - 1]) % size
        block = (rank == 0).cumsum(0) - 1
        low = spans.first.new_zeros(int((rank == 0).sum())).scatter_reduce(0, block, spans.first, "amin", include_self=False)
        width = int((spans.end - low[block]).max()) if len(users) else 0
        return cls(block * size + rank, low[:, None] + torch.arange(width), size)

    def spread(self, each: Tensor) -> Tensor:
        """(blocks, size, ...): the values of impressions (m, ...) at their places, 0 at the others."""
        places = each.new_zeros(len(self.tokens) * self.size, *each.shape[1:]).index_copy(0, self.place, each)
        return places.unflatten(0, (len(self.tokens), self.size))

    def gathered(self, places: Tensor) -> Tensor:
        """(m, ...): of the impressions."""
        return places.flatten(0, 1).index_select(0, self.place)

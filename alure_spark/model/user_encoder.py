"""The user sub-graph (ALURE, sections 2.2 and 2.3): events of K sources -> states -> a few unit vectors per user.

What the embedding is: for each view E_v of the item vectors (SVD, item2vec: model.views) the weighted mean of the vectors of
the items that the user had, plus what the compressed states add, scaled to length 1. The weights are learnt: an item's own
weight starts at the square root of its idf, age and repetition start neutral, so that training starts at a good classic
embedding and moves from there. Everything depends on the events alone, never on the clock of the request: a user
without new events keeps the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import DAY_MS
from .attention import HOUR_MS, CausalAttention, Runs
from .batch import ITEM, JaggedBatch, SourceTokens
from .spec import ModelSpec
from .tokens import TokenEmbedding

AGE_DAYS = (0.04, 1, 3, 7, 14, 28, 56, 112, 224)  # borders of the buckets of an event's age at the user's last event
USER_SHIFT = 42  # (user << 42) + epoch ms orders the events of all users in one key
IDF_POWER = 0.5  # an item weighs the square root of its idf at the start: better than idf on splits of the history alone
REPEATED = -4.0  # log weight of an item's later occurrences at the start: an item counts about once


class CausalModule(nn.Module):
    """One layer of one source: attention and feed-forward, each behind a norm and around a skip."""

    def __init__(self, spec: ModelSpec, source: str) -> None:
        super().__init__()
        config = spec.config
        self.attention_norm, self.forward_norm = nn.LayerNorm(config.dimension), nn.LayerNorm(config.dimension)
        self.attention = CausalAttention(
            config.dimension, config.heads, spec.attention_window(source), config.order_encoding, config.time_bias
        )
        self.feed_forward = nn.Sequential(
            nn.Linear(config.dimension, config.feed_forward), nn.GELU(), nn.Linear(config.feed_forward, config.dimension)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, hours: Tensor, runs: Runs) -> Tensor:
        """(T, d) by length -> (T, d)."""
        parts = [self._rest(part, self.attention(self.attention_norm(part), clock, blocks)) for part, clock, blocks in runs.split(x, hours)]
        return torch.cat(parts) if parts else x

    def last(self, x: Tensor, hours: Tensor, runs: Runs) -> Tensor:
        """The rows of forward at the users' last tokens: (U, d)."""
        ends, parts = x[runs.last], []
        asking = self.attention_norm(ends).split([sum(users for users, _ in blocks) for blocks in runs.chunks])
        for (part, clock, blocks), asked in zip(runs.split(x, hours), asking, strict=True):
            parts.append(self.attention.last(self.attention_norm(part), clock, asked, blocks))
        return self._rest(ends, torch.cat(parts)) if parts else ends

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.forward_norm(x)))


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
    """(R,) int64: one past the user's newest token with known_at < time (boundary.known_before, by bisection)."""
    return torch.searchsorted(moment_key(tokens.users(), tokens.known_at_ms), moment_key(users, time_ms))


def reads_of(spec: ModelSpec, source: str, tokens: SourceTokens, users: Tensor, time_ms: Tensor) -> Reads:
    """What each of R reads (user, time_ms), each (R,) int64, may see of the source."""
    end = known_ends(tokens, users, time_ms)
    first = torch.maximum(end - spec.reach(source), tokens.offsets[users])
    if source in spec.max_days_ms:
        first = torch.maximum(first, known_ends(tokens, users, time_ms - spec.max_days_ms[source]))
    return Reads(first, end)


class UserEncoder(nn.Module):
    """K parallel stacks of causal modules, pooling of item vectors, and the compression of the states.

    `item_vectors` (rows of space item_id, views * item_dimension) and `item_weight` (rows,) come from the classic
    factorisations and the idf; see `set_items`.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        config, self.spec = spec.config, spec
        rows = spec.spaces[ITEM]
        self.item_vectors = nn.Parameter(torch.empty(rows, spec.views * spec.item_dimension).normal_(std=spec.item_dimension**-0.5))
        self.item_weight = nn.Parameter(torch.zeros(rows))
        self.tokens = nn.ModuleDict({source: TokenEmbedding(spec, source) for source in spec.sources})
        self.layers = nn.ModuleList(
            nn.ModuleDict({source: CausalModule(spec, source) for source in spec.sources}) for _ in range(config.layers)
        )
        self.final_norm = nn.ModuleDict({source: nn.LayerNorm(config.dimension) for source in spec.sources})
        self.exchange = nn.ModuleList(
            nn.Linear(len(spec.sources) * config.dimension, config.dimension) for _ in range(config.layers if config.exchange else 0)
        )
        self.nothing = nn.ParameterDict({source: nn.Parameter(torch.zeros(config.dimension)) for source in spec.sources})
        self.idf_power = nn.Parameter(torch.tensor(IDF_POWER))
        self.direction_scale = nn.Parameter(torch.zeros(spec.views * spec.item_dimension))
        self.view_scale = nn.Parameter(torch.zeros(spec.views))
        self.age = nn.Parameter(torch.zeros(len(AGE_DAYS) + 1))
        self.repeated = nn.Parameter(torch.tensor(REPEATED))
        self.source_weight = nn.ParameterDict({source: nn.Parameter(torch.zeros(())) for source in spec.item_sources})
        width = spec.views * spec.item_dimension
        self.compress = nn.Sequential(
            nn.Linear(len(spec.sources) * config.dimension, 2 * config.dimension), nn.GELU(), nn.Linear(2 * config.dimension, width)
        )
        self.residual_share = nn.Parameter(torch.zeros(spec.views))
        with torch.no_grad():
            self.item_vectors[0] = 0

    @torch.no_grad()
    def set_items(self, item_vectors: Tensor, item_weight: Tensor) -> None:
        """Start from these vectors (rows, views * item_dimension) and log weights (rows,), e.g. log idf; row 0 is zeroed."""
        self.item_vectors.copy_(item_vectors)
        self.item_vectors[0] = 0
        self.item_weight.copy_(item_weight)

    def states(self, batch: JaggedBatch) -> dict[str, Tensor]:
        """source -> (T, d): what is known of the user at each event, in the order of the batch."""
        streams = self._streams(batch)
        for depth in range(len(self.layers)):
            streams = self._layer(depth, batch, streams)
        return {source: self.final_norm[source](x)[runs.place] for source, (x, _, runs) in streams.items()}

    def last_states(self, batch: JaggedBatch) -> dict[str, Tensor]:
        """source -> (B, d): the state at each user's last event; without exchange the last layer computes nothing else."""
        if self.exchange:
            ends = {source: batch.sources[source].offsets for source in self.spec.sources}
            last = {source: torch.nonzero(end[1:] > end[:-1]).squeeze(1) for source, end in ends.items()}  # users with a token
            return {
                source: self._placed(source, states[ends[source][1:][last[source]] - 1], last[source], len(batch))
                for source, states in self.states(batch).items()
            }
        streams = self._streams(batch)
        for depth in range(len(self.layers) - 1):
            streams = self._layer(depth, batch, streams)
        found = {}
        for source, (x, hours, runs) in streams.items():
            last = self.layers[-1][source].last(x, hours, runs)  # type: ignore[index]
            found[source] = self._placed(source, self.final_norm[source](last), runs.users, len(batch))
        return found

    def embed(self, batch: JaggedBatch) -> Tensor:
        """(B, views * item_dimension) float: the user embedding at as_of; unit rows, zeros for a user of whom nothing is known."""
        pooled = self.pooled(batch, torch.arange(len(batch)), batch.as_of_ms)
        if not self.spec.config.residual:
            return self._whole(self._views(pooled))
        last = self.last_states(batch)
        known = torch.stack([batch.sources[source].lengths for source in self.spec.sources]).sum(0) > 0
        return self._combine(pooled, torch.cat([last[source] for source in self.spec.sources], dim=-1), known)

    def embed_at(self, batch: JaggedBatch, states: Mapping[str, Tensor], users: Tensor, time_ms: Tensor) -> Tensor:
        """(R, views * item_dimension): the embedding of users (R,) as it was at time_ms (R,), from states that exist already."""
        pooled = self.pooled(batch, users, time_ms)
        if not self.spec.config.residual:
            return self._whole(self._views(pooled))
        found = [self.state_at(source, batch.sources[source], states[source], users, time_ms) for source in self.spec.sources]
        ends = [(part, known_ends(part, users, time_ms)) for part in (batch.sources[source] for source in self.spec.sources)]
        known = torch.stack([end > part.offsets[users] for part, end in ends]).any(0)
        return self._combine(pooled, torch.cat(found, dim=-1), known)

    def state_at(self, source: str, tokens: SourceTokens, states: Tensor, users: Tensor, time_ms: Tensor) -> Tensor:
        """(R, d): the state at the user's last event of the source known before time_ms."""
        end = known_ends(tokens, users, time_ms)
        there = end > tokens.offsets[users]
        picked = states[(end - 1).clamp(min=0)] if len(states) else states.new_zeros(len(users), self.spec.config.dimension)
        return torch.where(there[:, None], picked, self.nothing[source])

    def pooled(self, batch: JaggedBatch, users: Tensor, time_ms: Tensor) -> Tensor:
        """(R, views, item_dimension): weighted sums of the item vectors of what each read may see of the item sources."""
        spec, width = self.spec, self.item_vectors.shape[1]
        rows, known, weights, owners = [], [], [], []
        for source in spec.item_sources:
            tokens = batch.sources[source]
            reads = reads_of(spec, source, tokens, users, time_ms)
            seen = torch.repeat_interleave(reads.first - _before(reads.counts), reads.counts) + torch.arange(int(reads.counts.sum()))
            owners.append(torch.repeat_interleave(torch.arange(len(users)), reads.counts))
            rows.append(tokens.rows[ITEM][seen])
            known.append(tokens.known_at_ms[seen])
            weights.append(self.source_weight[source].expand(len(seen)))
        row, at, weight, owner = (torch.cat(parts) for parts in (rows, known, weights, owners))
        if len(spec.item_sources) > 1:  # the events of one source are in order
            order = torch.argsort(moment_key(owner, at), stable=True)
            row, at, weight, owner = (part[order] for part in (row, at, weight, owner))
        newest = torch.zeros(len(users), dtype=torch.int64).scatter_reduce(0, owner, at, "amax")
        age_days = (newest[owner] - at).to(torch.float64) / DAY_MS
        bucket = torch.bucketize(age_days, torch.tensor(AGE_DAYS, dtype=torch.float64), right=True)
        weight = weight + self.idf_power * self.item_weight[row] + self.age[bucket] + self.repeated * _occurred_before(owner, row)
        weight = weight.exp() * (row > 0)  # row 0, the unknown item, counts nothing and learns nothing
        starts = _before(torch.bincount(owner, minlength=len(users)))
        summed = F.embedding_bag(row, self.item_vectors, starts, mode="sum", per_sample_weights=weight)  # (R, width)
        return summed.view(len(users), spec.views, width // spec.views)

    def _combine(self, pooled: Tensor, states: Tensor, known: Tensor) -> Tensor:
        """pooled (R, views, item_dimension), states (R, K * d), known (R,) bool: any event -> (R, views * item_dimension) unit rows."""
        moved = _unit(self.compress(states).view(pooled.shape)) * known[:, None, None]
        return self._whole(_unit(self._views(pooled) + self.residual_share[:, None] * moved))

    def _views(self, pooled: Tensor) -> Tensor:
        """(R, views, item_dimension) unit rows; each direction counts as much as training found."""
        return _unit(_unit(pooled) * self.direction_scale.exp().view(pooled.shape[1:]))

    def _whole(self, views: Tensor) -> Tensor:
        """(R, views, item_dimension) unit rows -> (R, views * item_dimension) unit rows; each view counts as much as training found."""
        return _unit((views * self.view_scale.exp()[:, None]).flatten(1))

    def _streams(self, batch: JaggedBatch) -> dict[str, tuple[Tensor, Tensor, Runs]]:
        """source -> (tokens (T, d), hours since the user's first event (T,), runs), by length."""
        streams = {}
        for source in self.spec.sources:
            tokens = batch.sources[source]
            runs = Runs.of(tokens.offsets)
            began = tokens.event_time_ms[tokens.offsets[:-1].clamp(max=max(0, len(tokens.event_time_ms) - 1))] if len(runs.order) else None
            if began is None:
                hours = tokens.event_time_ms.to(self.item_vectors.dtype)
            else:
                hours = (tokens.event_time_ms - torch.repeat_interleave(began, tokens.lengths)).to(self.item_vectors.dtype) / HOUR_MS
            streams[source] = (self.tokens[source](tokens, self.item_vectors)[runs.order], hours[runs.order], runs)
        return streams

    def _layer(
        self, depth: int, batch: JaggedBatch, streams: dict[str, tuple[Tensor, Tensor, Runs]]
    ) -> dict[str, tuple[Tensor, Tensor, Runs]]:
        moved = {source: (self.layers[depth][source](x, hours, runs), hours, runs) for source, (x, hours, runs) in streams.items()}  # type: ignore[index]
        if not self.exchange:
            return moved
        # What the other sources knew when the token became known: strictly before it, the own source included.
        known = {source: x[runs.place] for source, (x, _, runs) in moved.items()}
        mixed = {}
        for source, (x, hours, runs) in moved.items():
            tokens = batch.sources[source]
            users = tokens.users()
            others = [self.state_at(name, batch.sources[name], known[name], users, tokens.known_at_ms) for name in self.spec.sources]
            mixed[source] = (x + self.exchange[depth](torch.cat(others, dim=-1))[runs.order], hours, runs)
        return mixed

    def _placed(self, source: str, found: Tensor, users: Tensor, size: int) -> Tensor:
        """(size, d): the found rows at their users, elsewhere what stands for no event."""
        return self.nothing[source].expand(size, -1).index_put((users,), found)


def _unit(x: Tensor) -> Tensor:
    """Rows scaled to length 1. A row of zeros stays; its gradient passes as it is, where F.normalize would make it 1e12 times larger."""
    norm = x.norm(dim=-1, keepdim=True)
    return x / torch.where(norm > 0, norm, 1)


def _before(counts: Tensor) -> Tensor:
    """(n,) int64 exclusive running sum."""
    return counts.cumsum(0) - counts


def _occurred_before(owner: Tensor, row: Tensor) -> Tensor:
    """(n,) bool: the owner had the row earlier in the arrays."""
    key = owner * (int(row.max()) + 1 if len(row) else 1) + row
    order = torch.argsort(key, stable=True)
    ordered = key[order]
    found = torch.zeros(len(key), dtype=torch.bool)
    found[order[1:]] = ordered[1:] == ordered[:-1]
    return found

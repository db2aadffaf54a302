"""The user sub-graph (ALURE, sections 2.2 and 2.3): events of K sources -> states -> a few unit vectors per user.

What the embedding is: for each view E_v of the item vectors (SVD, item2vec: model.views) the weighted mean of the vectors of
the items that the user had, plus what the compressed states add, scaled to length 1. The weights are learnt: an item's own
weight starts at the square root of its idf, age and repetition start neutral, so that training starts at a good classic
embedding and moves from there. Everything depends on the events alone, never on the clock of the request: a user
without new events keeps the embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batches.batch import JaggedBatch, SourceTokens
from ..batches.history import history_spans, known_ends, moment_key
from ..batches.vocabulary import ITEM
from ..clock import DAY_MS, HOUR_MS
from .attention import Blocks, CausalAttention, Clock, Runs
from .compression import compression
from .linear import Linear
from .named import Modules, Parameters
from .semantic_ids import SemanticIds, distinct_codes
from .spec import ModelSpec
from .tokens import TokenEmbedding, rotary_angles

AGE_DAYS = (0.04, 1, 3, 7, 14, 28, 56, 112, 224)  # borders of the buckets of an event's age at the user's last event
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
            Linear(config.dimension, config.feed_forward), nn.GELU(), Linear(config.feed_forward, config.dimension)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, stream: Stream) -> Tensor:
        """(T, d) of the stream, by length."""
        x, runs = stream.x, stream.runs
        parts = [self._rest(x[piece], self.attention(*self._asked(stream, piece, blocks))) for piece, blocks in runs.pieces()]
        return torch.cat(parts) if parts else x

    def last(self, stream: Stream) -> Tensor:
        """The rows of forward at the users' last tokens: (U, d)."""
        runs, parts, first = stream.runs, [], 0
        for piece, blocks in runs.pieces():
            end = first + sum(users for users, _ in blocks)
            x, clock, blocks, asking = self._asked(stream, piece, blocks)
            parts.append(self.attention.last(x, clock, runs.last[first:end] - piece.start, blocks, asking))
            first = end
        ends = stream.x[runs.last]
        return self._rest(ends, torch.cat(parts)) if parts else ends

    def _asked(self, stream: Stream, piece: slice, blocks: Blocks) -> tuple[Tensor, Clock, Blocks, Tensor | None]:
        """What attention is given of a piece."""
        x, clock = stream.x[piece], stream.clock.at(piece)
        asking = None if clock.encoding is None else self.attention_norm(x + clock.encoding)
        return self.attention_norm(x), clock, blocks, asking

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.forward_norm(x)))


@dataclass(frozen=True)
class Stream:
    """The tokens of one source on their way through the layers, by length."""

    x: Tensor  # (T, d)
    clock: Clock
    runs: Runs


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
        self.tokens = Modules({source: TokenEmbedding(spec, source) for source in spec.sources})
        # Trained by themselves beforehand, and never moved again: an item keeps its codes as long as the model lives.
        self.quantizers = Modules({name: SemanticIds(spec.widths[name], **size) for name, size in spec.quantizers.items()})
        self.quantizers.requires_grad_(False)
        self.layers = nn.ModuleList(Modules({source: CausalModule(spec, source) for source in spec.sources}) for _ in range(config.layers))
        self.final_norm = Modules({source: nn.LayerNorm(config.dimension) for source in spec.sources})
        early = len([layer for layer in spec.read_layers if layer < config.layers])  # read layers below the last have their own norms
        norms = {source: nn.ModuleList(nn.LayerNorm(config.dimension) for _ in range(early)) for source in spec.sources}
        self.early_norm = Modules(norms)
        self.exchange = nn.ModuleList(
            Linear(len(spec.sources) * config.dimension, config.dimension) for _ in range(config.layers if config.exchange else 0)
        )
        self.nothing = Parameters({source: nn.Parameter(torch.zeros(spec.state_width)) for source in spec.sources})
        self.idf_power = nn.Parameter(torch.tensor(IDF_POWER))
        self.direction_scale = nn.Parameter(torch.zeros(spec.views * spec.item_dimension))
        self.view_scale = nn.Parameter(torch.zeros(spec.views))
        self.age = nn.Parameter(torch.zeros(len(AGE_DAYS) + 1))
        self.repeated = nn.Parameter(torch.tensor(REPEATED))
        self.source_weight = Parameters({source: nn.Parameter(torch.zeros(())) for source in spec.item_sources})
        self.compress = compression(spec)
        self.residual_share = nn.Parameter(torch.zeros(spec.views))
        with torch.no_grad():
            self.item_vectors[0] = 0

    @torch.no_grad()
    def set_items(self, item_vectors: Tensor, item_weight: Tensor) -> None:
        """Start from these vectors (rows, views * item_dimension) and log weights (rows,), e.g. log idf; row 0 is zeroed."""
        self.item_vectors.copy_(item_vectors)
        self.item_vectors[0] = 0
        self.item_weight.copy_(item_weight)

    def pooling_parameters(self) -> list[nn.Parameter]:
        """What weighs items, events, directions and views in the embedding, in the order of the state dict."""
        weights = [self.item_weight, self.idf_power, self.direction_scale, self.view_scale, self.age, self.repeated, self.residual_share]
        return weights + list(self.source_weight.parameters())

    def states(self, batch: JaggedBatch, sources: Iterable[str] | None = None) -> dict[str, Tensor]:
        """source -> (T, S): what is known of the user at each event, in the order of the batch; S is spec.state_width.

        Of these sources, else of all. Raises ValueError for a part of them where each reads the others (model.exchange).
        """
        wanted = tuple(self.spec.sources if sources is None else sources)
        if self.exchange and len(wanted) < len(self.spec.sources):
            raise ValueError(f"with model.exchange the states of {', '.join(wanted)} take those of all sources")
        streams = self._streams(batch, wanted)
        found = [self._read(0, {source: stream.x for source, stream in streams.items()})]
        for depth in range(len(self.layers)):
            streams = self._layer(depth, batch, streams)
            found.append(self._read(depth + 1, {source: stream.x for source, stream in streams.items()}))
        return {source: _beside(found, source)[streams[source].runs.place] for source in wanted}

    def last_states(self, batch: JaggedBatch) -> dict[str, Tensor]:
        """source -> (B, P, S): the states at each user's last P = read_positions events, the last one first.

        Of one position and without exchange the last layer computes nothing else.
        """
        if self.exchange or self.spec.config.read_positions > 1:
            states = self.states(batch)
            return {
                source: self._states_before(source, tokens, states[source], tokens.offsets[:-1], tokens.offsets[1:])
                for source, tokens in ((source, batch.sources[source]) for source in self.spec.sources)
            }
        streams = self._streams(batch, self.spec.sources)
        found = [self._read(0, _ends(streams))]
        for depth in range(len(self.layers) - 1):
            streams = self._layer(depth, batch, streams)
            found.append(self._read(depth + 1, _ends(streams)))
        if self.spec.config.layers in self.spec.read_layers:
            last = {source: self.layers[-1][source].last(stream) for source, stream in streams.items()}  # type: ignore[index]
            found.append(self._read(len(self.layers), last))
        placed = {}
        for source, stream in streams.items():
            nothing = self.nothing[source].expand(len(batch), -1)
            placed[source] = nothing.index_put((stream.runs.users,), _beside(found, source))[:, None]
        return placed

    def embed(self, batch: JaggedBatch) -> Tensor:
        """(B, views * item_dimension) float: the user embedding at as_of; unit rows, zeros for a user of whom nothing is known."""
        pooled = self.pooled(batch, torch.arange(len(batch)), batch.as_of_ms)
        if not self.spec.config.residual:
            return self._whole(self._views(pooled))
        last = self.last_states(batch)
        known = torch.stack([batch.sources[source].lengths for source in self.spec.sources]).sum(0) > 0
        return self._combine(pooled, last, known)

    def embed_at(self, batch: JaggedBatch, states: Mapping[str, Tensor], users: Tensor, time_ms: Tensor) -> Tensor:
        """(R, views * item_dimension): the embedding of users (R,) as it was at time_ms (R,), from states that exist already."""
        pooled = self.pooled(batch, users, time_ms)
        if not self.spec.config.residual:
            return self._whole(self._views(pooled))
        found, known = {}, torch.zeros(len(users), dtype=torch.bool)
        for source in self.spec.sources:
            tokens = batch.sources[source]
            end, begin = known_ends(tokens, users, time_ms), tokens.offsets[users]
            found[source] = self._states_before(source, tokens, states[source], begin, end)
            known |= end > begin
        return self._combine(pooled, found, known)

    def state_at(self, source: str, tokens: SourceTokens, states: Tensor, users: Tensor, time_ms: Tensor) -> Tensor:
        """(R, S): the state at the user's last event of the source known before time_ms."""
        return _state_before(self.nothing[source], states, tokens.offsets[users], known_ends(tokens, users, time_ms))

    def _states_before(self, source: str, tokens: SourceTokens, states: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        """(R, P, S): the states at the last P tokens of [begin, end), each (R,), the last one first, `nothing` where there are fewer."""
        seen = self.spec.read_back(source, tokens.limit)
        found = [
            _state_before(self.nothing[source], states, begin if back < seen else end, end - back)
            for back in range(self.spec.config.read_positions)
        ]
        return torch.stack(found, dim=1)

    def pooled(self, batch: JaggedBatch, users: Tensor, time_ms: Tensor) -> Tensor:
        """(R, views, item_dimension): weighted sums of the item vectors of what each read may see of the item sources."""
        spec, width = self.spec, self.item_vectors.shape[1]
        rows, known, weights, owners = [], [], [], []
        for source in spec.item_sources:
            tokens = batch.sources[source]
            span = history_spans(tokens, users, time_ms, spec.reach(source, tokens.limit), spec.max_days_ms.get(source))
            seen = torch.repeat_interleave(span.first - _before(span.counts), span.counts) + torch.arange(int(span.counts.sum()))
            owners.append(torch.repeat_interleave(torch.arange(len(users)), span.counts))
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

    def _combine(self, pooled: Tensor, states: Mapping[str, Tensor], known: Tensor) -> Tensor:
        """pooled (R, views, item_dimension), states source -> (R, P, S), known (R,) bool: any event -> (R, views * item_dimension)."""
        d = self.spec.config.dimension
        parts = torch.cat([states[source].unflatten(2, (-1, d)).flatten(1, 2) for source in self.spec.sources], dim=1)  # (R, n, d)
        moved = _unit(self.compress(parts).view(pooled.shape)) * known[:, None, None]
        return self._whole(_unit(self._views(pooled) + self.residual_share[:, None] * moved))

    def _views(self, pooled: Tensor) -> Tensor:
        """(R, views, item_dimension) unit rows; each direction counts as much as training found."""
        return _unit(_unit(pooled) * self.direction_scale.exp().view(pooled.shape[1:]))

    def _whole(self, views: Tensor) -> Tensor:
        """(R, views, item_dimension) unit rows -> (R, views * item_dimension) unit rows; each view counts as much as training found."""
        return _unit((views * self.view_scale.exp()[:, None]).flatten(1))

    def _streams(self, batch: JaggedBatch, sources: Iterable[str]) -> dict[str, Stream]:
        """The tokens of each source before the first layer."""
        streams, dtype = {}, self.item_vectors.dtype
        for source in sources:
            tokens = self.coded(batch.sources[source])
            runs, began = Runs.of(tokens.offsets), tokens.event_time_ms[tokens.offsets[tokens.users()]]
            hours = (tokens.event_time_ms - began).to(dtype) / HOUR_MS
            angles = rotary_angles(tokens, dtype) if self.spec.config.rotary_encoding else None
            if self.spec.config.value_encodings:
                x, encoding = self.tokens[source](tokens, self.item_vectors), None
            else:
                x, encoding = self.tokens[source].apart(tokens, self.item_vectors)  # type: ignore[operator]
            window = None if tokens.limit is None else self.spec.attention_window(source, tokens.limit)
            streams[source] = Stream(x[runs.order], Clock(hours, angles, encoding, window).at(runs.order), runs)
        return streams

    def coded(self, tokens: SourceTokens) -> SourceTokens:
        """The tokens with the semantic ids of their embeddings as rows."""
        rows = dict(tokens.rows)
        for name, quantizer in self.quantizers.items():
            if name in tokens.vectors:
                codes = distinct_codes(cast(SemanticIds, quantizer), tokens.vectors[name])
                rows |= {f"{name}__{level}": codes[:, level] + 1 for level in range(codes.shape[1])}
        return replace(tokens, rows=rows)

    def _layer(self, depth: int, batch: JaggedBatch, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        moved = {source: replace(stream, x=self.layers[depth][source](stream)) for source, stream in streams.items()}  # type: ignore[index]
        if not self.exchange:
            return moved
        # What the other sources knew when the token became known: strictly before it, the own source included.
        known = {source: stream.x[stream.runs.place] for source, stream in moved.items()}
        mixed = {}
        for source, stream in moved.items():
            tokens = batch.sources[source]
            users = tokens.users()
            others = []
            for name in self.spec.sources:
                end, begin = known_ends(batch.sources[name], users, tokens.known_at_ms), batch.sources[name].offsets[users]
                others.append(_state_before(self.nothing[name][-stream.x.shape[1] :], known[name], begin, end))
            mixed[source] = replace(stream, x=stream.x + self.exchange[depth](torch.cat(others, dim=-1))[stream.runs.order])
        return mixed

    def _read(self, depth: int, xs: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """source -> (n, d) as it is read, where that layer is."""
        if depth not in self.spec.read_layers:
            return None
        norms = self.final_norm if depth == self.spec.config.layers else None
        at = self.spec.read_layers.index(depth)
        return {source: (norms[source] if norms is not None else self.early_norm[source][at])(x) for source, x in xs.items()}  # type: ignore[index]


def _state_before(nothing: Tensor, states: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """(R, S): the states (T, S) at the last tokens of [begin, end), each (R,), and `nothing` (S,) where there is none."""
    picked = states[(end - 1).clamp(min=0)] if len(states) else states.new_zeros(len(end), states.shape[1])
    return torch.where((end > begin)[:, None], picked, nothing)


def _ends(streams: Mapping[str, Stream]) -> dict[str, Tensor]:
    """source -> (U, d) at the users' last tokens."""
    return {source: stream.x[stream.runs.last] for source, stream in streams.items()}


def _beside(found: list[dict[str, Tensor] | None], source: str) -> Tensor:
    """(n, S): what was read of the layers, side by side."""
    return torch.cat([part[source] for part in found if part is not None], dim=-1)


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

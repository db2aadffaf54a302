"""The user encoder on padded rows: (B, L, d) with masks, as everybody writes it. An oracle for the tests, a peer for the benchmarks.

Both classes use the parameters of the `UserEncoder` that they are given (so gradients gather there) and none of its code for
attention, time encodings, pooling or combination. `PaddedEncoder` knows every switch; `PlainPadded` runs torch's own
nn.TransformerEncoder, which knows the plain configuration only. Rows are padded at the end and attention is causal, so no
token ever looks at a padded one. Memory grows with B L^2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alure_spark.batches.batch import JaggedBatch, SourceTokens
from alure_spark.model.user_encoder import AGE_DAYS, UserEncoder

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


@dataclass(frozen=True)
class Padding:
    """Where the tokens of B users stand in (B, L), L the longest row."""

    place: Tensor  # (B, L) int64: which packed token; an arbitrary one where there is none
    there: Tensor  # (B, L) bool

    @classmethod
    def of(cls, offsets: Tensor) -> Padding:
        """From the borders (B + 1,) of a packed row."""
        lengths = offsets[1:] - offsets[:-1]
        steps = torch.arange(int(lengths.max()) if len(lengths) else 0)
        there = steps < lengths[:, None]
        return cls(torch.where(there, offsets[:-1, None] + steps, 0), there)


class PaddedEncoder(nn.Module):
    """The same function as the encoder that it is given, on padded rows."""

    def __init__(self, encoder: UserEncoder) -> None:
        super().__init__()
        self.encoder, self.spec = encoder, encoder.spec

    def states(self, batch: JaggedBatch) -> dict[str, Tensor]:
        """source -> (T, d), packed in the order of the batch."""
        paddings = {source: Padding.of(batch.sources[source].offsets) for source in self.spec.sources}
        return {source: state[paddings[source].there] for source, state in self.padded_states(batch, paddings).items()}

    def embed(self, batch: JaggedBatch) -> Tensor:
        """(B, views * item_dimension): the embedding at as_of, of the events known before it."""
        encoder, rows = self.encoder, torch.arange(len(batch))
        paddings = {source: Padding.of(batch.sources[source].offsets) for source in self.spec.sources}
        ends = {
            source: ((batch.sources[source].known_at_ms[padding.place] < batch.as_of_ms[:, None]) & padding.there).sum(1)
            for source, padding in paddings.items()
        }  # source -> (B,) events known before as_of
        pooled = self._pooled(batch, paddings, ends)
        views = _unit(pooled.view(len(batch), self.spec.views, self.spec.item_dimension))
        views = _unit(views * encoder.direction_scale.exp().view(1, self.spec.views, self.spec.item_dimension))
        if self.spec.config.residual:
            parts = []
            for source, states in self.padded_states(batch, paddings).items():
                for back in range(self.spec.config.read_positions):
                    place = ends[source] - 1 - back if back < self.spec.read_back(source) else torch.full_like(ends[source], -1)
                    last = states[rows, place.clamp(min=0)] if states.shape[1] else encoder.nothing[source]
                    parts.append(torch.where(place[:, None] >= 0, last, encoder.nothing[source]))
            vectors = torch.cat(parts, dim=1).unflatten(1, (-1, self.spec.config.dimension))
            moved = _unit(self._compressed(vectors).view(views.shape))
            views = _unit(views + encoder.residual_share[:, None] * moved)
        known = torch.stack(list(ends.values())).sum(0) > 0
        return _unit((views * encoder.view_scale.exp()[:, None]).flatten(1)) * known[:, None]

    def padded_states(self, batch: JaggedBatch, paddings: Mapping[str, Padding]) -> dict[str, Tensor]:
        """source -> (B, L, S); what stands at padded places means nothing."""
        spec, encoder = self.spec, self.encoder
        xs = {source: self.tokens(source, batch.sources[source], padding) for source, padding in paddings.items()}
        encodings = {source: self.encoding(source, batch.sources[source], padding) for source, padding in paddings.items()}
        if spec.config.value_encodings:
            xs = {source: x + encodings[source] for source, x in xs.items()}
            encodings = {source: torch.zeros_like(x) for source, x in xs.items()}
        depths = [xs]
        for depth in range(spec.config.layers):
            xs = {source: self._module(depth, source, x, encodings[source], batch, paddings) for source, x in xs.items()}
            if spec.config.exchange:
                xs = self._exchanged(depth, batch, paddings, xs)
            depths.append(xs)
        found = {}
        for source in xs:
            early = [encoder.early_norm[source][at](depths[layer][source]) for at, layer in enumerate(spec.read_layers[:-1])]  # type: ignore[index]
            top = spec.read_layers[-1]
            norm = encoder.final_norm[source] if top == spec.config.layers else encoder.early_norm[source][-1]  # type: ignore[index]
            found[source] = torch.cat([*early, norm(depths[top][source])], dim=-1)
        return found

    def _compressed(self, vectors: Tensor) -> Tensor:
        """(B, n, d) -> (B, views * item_dimension)."""
        module: Any = self.encoder.compress
        if self.spec.config.compression == "linear":
            return module[2](F.gelu(module[0](vectors.flatten(1))))
        if self.spec.config.compression == "dot_product":
            mixed = torch.einsum("bnd,mn->bmd", vectors, module.mix.weight)
            dots = torch.einsum("bnd,bmd->bnm", vectors, mixed) / math.sqrt(vectors.shape[-1])
            return module.output((mixed + module.interact(dots.flatten(1)).view_as(mixed)).flatten(1))
        torchs = nn.MultiheadAttention(vectors.shape[-1], self.spec.config.heads, batch_first=True, dtype=vectors.dtype)
        parameters = {
            "in_proj_weight": torch.cat([module.query.weight, module.key_value.weight]),
            "in_proj_bias": torch.cat([module.query.bias, module.key_value.bias]),
            "out_proj.weight": module.mixed.weight,
            "out_proj.bias": module.mixed.bias,
        }
        queries, keys = module.queries.expand(len(vectors), -1, -1), vectors + module.place
        x = queries + torch.func.functional_call(torchs, parameters, (queries, keys, keys))[0]
        x = x + module.feed_forward(module.norm(x))
        return torch.cat([output(x[:, view]) for view, output in enumerate(module.output)], dim=1)

    def tokens(self, source: str, tokens: SourceTokens, padding: Padding) -> Tensor:
        """(B, L, d) what happened."""
        embedding: Any = self.encoder.tokens[source]
        place, dtype = padding.place, self.encoder.item_vectors.dtype
        item = tokens.rows["item_id"][place]
        parts = [self.encoder.item_vectors[item] * (item > 0)[:, :, None]]
        for name in self.spec.of_kind(source, "numeric"):
            if name != "utc_offset_minutes":
                value = tokens.numbers[name][place]
                filled = value.nan_to_num().to(dtype)
                parts.append(torch.stack([torch.sign(filled) * torch.log1p(filled.abs()), (~value.isnan()).to(dtype)], dim=-1))
        for name in set(self.spec.of_kind(source, "embedding")) - set(self.spec.quantizers):
            vector = tokens.vectors[name][place].to(dtype)
            parts += [vector.nan_to_num(), (~vector.isnan().any(-1, keepdim=True)).to(dtype)]
        content = torch.cat(parts, dim=-1)
        x = content @ embedding.project.weight[:, : content.shape[-1]].T + embedding.project.bias
        for name in self.spec.of_kind(source, "categorical"):
            row = tokens.rows[name][place]
            x = x + embedding.tables[name].weight[row] * (row > 0)[:, :, None]
        for name, size in self.spec.quantizers.items():
            if name in tokens.vectors:
                codes = self.encoder.quantizers[name].encode(tokens.vectors[name])[place]  # type: ignore[operator]
                for level in range(size["levels"]):
                    code = codes[:, :, level]
                    x = x + embedding.tables[f"{name}__{level}"].weight[code + 1] * (code >= 0)[:, :, None]
        for name in self.spec.of_kind(source, "text"):
            hashes = tokens.words[name][place]  # (B, L, words)
            there = (hashes > 0).to(dtype)[..., None]
            bag = (embedding.texts[name].weight[1 + hashes % (self.spec.config.text_buckets - 1)] * there).sum(2)
            x = x + bag / there.sum(2).clamp(min=1)
        return x

    def encoding(self, source: str, tokens: SourceTokens, padding: Padding) -> Tensor:
        """(B, L, d) when it happened."""
        embedding: Any = self.encoder.tokens[source]
        place, config, dtype, parts = padding.place, self.spec.config, self.encoder.item_vectors.dtype, []
        time, lookback = tokens.event_time_ms[place], self.spec.token_lookback(source)
        steps = torch.arange(time.shape[1])
        if config.gap_encoding and lookback:
            hours = (time[:, 1:] - time[:, :-1]).clamp(min=0).to(dtype) / HOUR_MS
            gap = F.pad(torch.log1p(hours) / 4, (1, 0))[:, : time.shape[1]]
            later = (steps > 0).expand_as(gap).to(dtype)
            parts.append(torch.stack([gap, gap**2, later], dim=-1))
        if config.clock_encoding:
            day, weekday = self._wall_clock(tokens, padding)
            week = 2 * math.pi * weekday.floor() / 7
            circles = [day.sin(), day.cos(), (2 * day).sin(), (2 * day).cos(), week.sin(), week.cos()]
            parts.append(torch.stack([*circles, (weekday >= 5).to(dtype)], dim=-1))
        if config.frequency_encoding:
            known = tokens.known_at_ms[place]
            nearest = (steps[:, None] > steps) & (steps[:, None] - steps <= lookback)  # (L, L): the events before, not too many
            for days in (1 / 24, 1, 7, 28, math.inf):
                counted = nearest & (known[:, :, None] - known[:, None, :] <= days * DAY_MS)
                parts.append(torch.log1p(counted.sum(2).to(dtype))[:, :, None] / 4)
        encodings = torch.cat([time[:, :, None][:, :, :0].to(dtype), *parts], dim=-1)
        weight = embedding.project.weight
        return encodings @ weight[:, weight.shape[1] - encodings.shape[-1] :].T

    def _wall_clock(self, tokens: SourceTokens, padding: Padding) -> tuple[Tensor, Tensor]:
        """(B, L) the local hour as an angle, and the local weekday with its part of the day, 0 to 7 from Monday."""
        time, dtype = tokens.event_time_ms[padding.place], self.encoder.item_vectors.dtype
        if "utc_offset_minutes" in tokens.numbers:
            time = time + (tokens.numbers["utc_offset_minutes"][padding.place].nan_to_num() * 60_000).long()
        part = (time % DAY_MS).to(dtype) / DAY_MS
        return 2 * math.pi * part, ((time // DAY_MS + 3) % 7).to(dtype) + part

    def _module(self, depth: int, source: str, x: Tensor, encoding: Tensor, batch: JaggedBatch, paddings: Mapping[str, Padding]) -> Tensor:
        """One layer of one source: x (B, L, d), encoding (B, L, d) that queries and keys see beside it -> (B, L, d)."""
        module: Any = dict(self.encoder.layers[depth].named_children())[source]
        attention, tokens = module.attention, batch.sources[source]
        event_time_ms = tokens.event_time_ms[paddings[source].place]
        heads, length = self.spec.config.heads, x.shape[1]
        asking, told = (attention.inputs(module.attention_norm(part)).chunk(3, dim=-1) for part in (x + encoding, x))
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (*asking[:2], told[2]))
        if self.spec.config.rotary_encoding:
            day, weekday = self._wall_clock(tokens, paddings[source])
            # Thursday is the day of the epoch: angles may start anywhere, since scores see differences only.
            place = torch.arange(length).expand_as(day).to(day.dtype) / 10
            q, k = (_rotated(part, [day, 2 * day, 2 * math.pi * weekday / 7, place]) for part in (q, k))
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])  # (B, heads, L, L)
        distance = torch.arange(length)[:, None] - torch.arange(length)
        if attention.order_slope is not None:
            scores = scores - F.softplus(attention.order_slope)[:, None, None] * torch.log1p(distance.abs().to(x.dtype))
        if attention.time_slope is not None:
            gap = (event_time_ms[:, :, None] - event_time_ms[:, None, :]).abs().to(x.dtype) / HOUR_MS
            scores = scores - F.softplus(attention.time_slope)[:, None, None] * torch.log1p(gap)[:, None]
        scores = scores.masked_fill((distance < 0) | (distance >= self.spec.attention_window(source)), float("-inf"))
        x = x + attention.output((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + module.feed_forward(module.forward_norm(x))

    def _exchanged(self, depth: int, batch: JaggedBatch, paddings: Mapping[str, Padding], xs: dict[str, Tensor]) -> dict[str, Tensor]:
        """To each token what every source knew strictly before the token was known."""
        encoder, rows, mixed = self.encoder, torch.arange(len(batch))[:, None], {}
        for source, x in xs.items():
            asked = batch.sources[source].known_at_ms[paddings[source].place]
            parts = []
            for other, states in xs.items():
                known = batch.sources[other].known_at_ms[paddings[other].place]
                count = ((known[:, None, :] < asked[:, :, None]) & paddings[other].there[:, None, :]).sum(2)  # (B, L)
                nothing = encoder.nothing[other][-x.shape[-1] :].expand_as(x)
                last = states[rows, (count - 1).clamp(min=0)] if states.shape[1] else nothing
                parts.append(torch.where(count[:, :, None] > 0, last, nothing))
            mixed[source] = x + encoder.exchange[depth](torch.cat(parts, dim=-1))
        return mixed

    def _pooled(self, batch: JaggedBatch, paddings: Mapping[str, Padding], ends: Mapping[str, Tensor]) -> Tensor:
        """(B, views * item_dimension): weighted sum over the last max_events known before as_of of each item source."""
        encoder, rows, known, seen, weights = self.encoder, [], [], [], []
        for source in self.spec.item_sources:
            tokens, padding, end = batch.sources[source], paddings[source], ends[source][:, None]
            step = torch.arange(padding.place.shape[1])
            rows.append(tokens.rows["item_id"][padding.place])
            known.append(tokens.known_at_ms[padding.place])
            seen.append((step < end) & (step >= end - self.spec.reach(source)))
            weights.append(encoder.source_weight[source].expand(rows[-1].shape))
        row, at, there, weight = (torch.cat(parts, dim=1) for parts in (rows, known, seen, weights))  # (B, all L)
        newest = torch.where(there, at, 0).amax(1, keepdim=True) if row.shape[1] else at
        days = (newest - at).to(torch.float64) / DAY_MS
        bucket = (days[:, :, None] >= torch.tensor(AGE_DAYS, dtype=torch.float64)).sum(2)
        weight = weight + encoder.idf_power * encoder.item_weight[row] + encoder.age[bucket] + encoder.repeated * _again(row, at, there)
        weight = torch.where(there & (row > 0), weight, float("-inf")).exp()  # row 0, the unknown item, counts nothing
        return (weight[:, None, :] @ encoder.item_vectors[row]).squeeze(1)


class PlainPadded(PaddedEncoder):
    """The plain configuration (no order encoding, no time bias, rows within the window) by torch's nn.TransformerEncoder."""

    def __init__(self, encoder: UserEncoder) -> None:
        super().__init__(encoder)
        config = self.spec.config
        if config.order_encoding or config.time_bias or config.exchange or config.rotary_encoding or not config.value_encodings:
            raise ValueError(
                "nn.TransformerEncoder knows no order encoding, no time bias, no rotary encoding and no exchange: switch them off"
            )
        self.stacks = nn.ModuleDict({source: self._stack(source) for source in self.spec.sources})

    def _stack(self, source: str) -> nn.TransformerEncoder:
        """Torch's encoder, holding our parameters themselves."""
        config = self.spec.config
        layer = nn.TransformerEncoderLayer(
            config.dimension, config.heads, config.feed_forward, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        stack = nn.TransformerEncoder(layer, config.layers, self.encoder.final_norm[source], enable_nested_tensor=False)
        theirs: Any
        for theirs, ours in zip(stack.layers, self.encoder.layers, strict=True):
            module: Any = dict(ours.named_children())[source]
            theirs.norm1, theirs.norm2 = module.attention_norm, module.forward_norm
            theirs.linear1, theirs.linear2 = module.feed_forward[0], module.feed_forward[2]
            theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias = module.attention.inputs.weight, module.attention.inputs.bias
            theirs.self_attn.out_proj.weight, theirs.self_attn.out_proj.bias = module.attention.output.weight, module.attention.output.bias
        return stack.train(self.encoder.training)

    def padded_states(self, batch: JaggedBatch, paddings: Mapping[str, Padding]) -> dict[str, Tensor]:
        """source -> (B, L, d). Raises ValueError where a row is longer than the window."""
        found = {}
        for source, padding in paddings.items():
            x = self.tokens(source, batch.sources[source], padding) + self.encoding(source, batch.sources[source], padding)
            if x.shape[1] > self.spec.attention_window(source):
                raise ValueError(f"a row of {x.shape[1]} tokens is longer than the window of {self.spec.attention_window(source)}")
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
            found[source] = self.stacks[source](x, mask=mask, is_causal=True) if x.numel() else x
        return found


def _rotated(x: Tensor, angles: list[Tensor]) -> Tensor:
    """x (B, heads, L, width): its first numbers and those len(angles) further on are complex numbers, turned by the angles (B, L)."""
    pairs = len(angles)
    turned = torch.complex(x[..., :pairs], x[..., pairs : 2 * pairs]) * torch.exp(1j * torch.stack(angles, dim=-1))[:, None]
    return torch.cat([turned.real, turned.imag, x[..., 2 * pairs :]], dim=-1)


def _again(row: Tensor, at: Tensor, there: Tensor) -> Tensor:
    """(B, n) bool: the row occurred before among those there, by time and, at equal times, by place."""
    by_time = torch.where(there, at, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    order = by_time.gather(1, torch.where(there, row, -1).gather(1, by_time).argsort(dim=1, stable=True))
    ordered, their = row.gather(1, order), there.gather(1, order)
    same = F.pad((ordered[:, 1:] == ordered[:, :-1]) & their[:, 1:] & their[:, :-1], (1, 0))[:, : row.shape[1]]
    return torch.zeros_like(same).scatter(1, order, same)


def _unit(x: Tensor) -> Tensor:
    """Rows scaled to length 1; a row of zeros stays, and its gradient passes as it is."""
    norm = x.norm(dim=-1, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1)

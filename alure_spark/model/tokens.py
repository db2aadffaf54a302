"""From events to token vectors: content (item, attributes) and the causal time encodings of CFEE (ALURE, section 2.2).

Tokens hold causal facts only (house rule 5): the gap to the user's previous event of the source, local hour and weekday, and how
many events came before, at most spec.token_lookback of them: an absolute place without such a limit would differ between a
long training row and the serving row. Order enters the attention as a relative distance.
A source that declares the numeric attribute `utc_offset_minutes` has local clocks, any other one UTC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ..batches.batch import SourceTokens
from ..batches.history import known_ends
from ..batches.vocabulary import ITEM
from ..clock import DAY_MS, HOUR_MS
from ..config import ROTARY_PAIRS
from .named import Modules
from .spec import ModelSpec

MINUTE_MS = 60_000
COUNTED_MS = (HOUR_MS, DAY_MS, 7 * DAY_MS, 28 * DAY_MS)
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; 0 is Monday
OFFSET = "utc_offset_minutes"


class TokenEmbedding(nn.Module):
    """The tokens (T, d) of one source."""

    def __init__(self, spec: ModelSpec, source: str) -> None:
        super().__init__()
        config, self.spec, self.source = spec.config, spec, source
        codes = spec.code_spaces(source)
        self.categorical = [*spec.of_kind(source, "categorical"), *codes]
        self.numeric = [name for name in spec.of_kind(source, "numeric") if name != OFFSET]
        self.embeddings, self.buckets = given_embeddings(spec, source), config.text_buckets
        self.texts = Modules({name: embedding_table(self.buckets, config.dimension, 0.1) for name in spec.of_kind(source, "text")})
        rows = {name: spec.spaces[name] for name in spec.of_kind(source, "categorical")} | codes
        self.tables = Modules({name: embedding_table(size, config.dimension, 0.1) for name, size in rows.items()})
        self.gap, self.clock, self.frequency = (
            config.gap_encoding and spec.token_lookback(source) > 0,
            config.clock_encoding,
            config.frequency_encoding,
        )
        self.project = nn.Linear(content_width(spec, source) + encoding_width(spec, source), config.dimension)
        self.item_width, self.widths = spec.views * spec.item_dimension, spec.widths

    def forward(self, tokens: SourceTokens, item_vectors: Tensor) -> Tensor:
        """(T, d); item_vectors (rows of space item_id, views * item_dimension)."""
        parts = [*self._content(tokens, item_vectors), *self._encodings(tokens, item_vectors.dtype)]
        x = nn.functional.linear(torch.cat(parts, dim=-1), self._weight(tokens), self.project.bias)
        return self._with_tables(x, tokens)

    def apart(self, tokens: SourceTokens, item_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What happened (T, d), and the encodings of when (T, d): together they are the token."""
        content = torch.cat(self._content(tokens, item_vectors), dim=-1)
        encodings = torch.cat([*self._encodings(tokens, item_vectors.dtype), content[:, :0]], dim=-1)
        of_content, of_time = self._weight(tokens).split([content.shape[1], encodings.shape[1]], dim=1)
        x = nn.functional.linear(content, of_content, self.project.bias)
        return self._with_tables(x, tokens), nn.functional.linear(encodings, of_time)

    def of_ads(self, rows: Mapping[str, Tensor], item_vectors: Tensor) -> Tensor:
        """(M, d) what the tokens' own weights say of M ads: rows 'item_id' and any categorical attributes that both have, (M,)."""
        item = nn.functional.embedding(rows[ITEM], item_vectors, padding_idx=0)
        x = nn.functional.linear(item, self.project.weight[:, : item.shape[1]])
        for name in self.categorical:
            if name in rows:
                x = x + self.tables[name](rows[name])
        return x

    def _content(self, tokens: SourceTokens, item_vectors: Tensor) -> list[Tensor]:
        item = nn.functional.embedding(tokens.rows[ITEM], item_vectors, padding_idx=0)
        known = [numbers(tokens.numbers[name], item_vectors.dtype) for name in self.numeric if name in tokens.numbers]
        given = [vectors(tokens.vectors[name], item_vectors.dtype) for name in self.embeddings if name in tokens.vectors]
        return [item, *known, *given]

    def _weight(self, tokens: SourceTokens) -> Tensor:
        """(d, numbers): the columns of the projection for what the tokens have; of a dropped attribute nothing is multiplied."""
        widths = dict.fromkeys(self.numeric, 2) | {name: self.widths[name] + 1 for name in self.embeddings}
        if not any(map(tokens.lacks, widths)):
            return self.project.weight
        pieces, first = [self.project.weight[:, : self.item_width]], self.item_width
        for name, width in widths.items():
            pieces += [] if tokens.lacks(name) else [self.project.weight[:, first : first + width]]
            first += width
        return torch.cat([*pieces, self.project.weight[:, first:]], dim=1)

    def _encodings(self, tokens: SourceTokens, dtype: torch.dtype) -> list[Tensor]:
        found = [gap_encoding(tokens, dtype)] if self.gap else []
        found += [clock_encoding(local_time_ms(tokens), dtype)] if self.clock else []
        lookback = self.spec.token_lookback(self.source, tokens.limit)
        return found + ([frequency_encoding(tokens, lookback, dtype)] if self.frequency else [])

    def _with_tables(self, x: Tensor, tokens: SourceTokens) -> Tensor:
        for name in self.categorical:
            if name in tokens.rows:
                x = x + self.tables[name](tokens.rows[name])
        for name, table in self.texts.items():
            if name not in tokens.words:
                continue
            hashes = tokens.words[name]
            rows = torch.where(hashes > 0, hashes % (self.buckets - 1) + 1, 0)
            x = x + nn.functional.embedding_bag(rows, cast(Tensor, table.weight), mode="mean", padding_idx=0)
        return x


def given_embeddings(spec: ModelSpec, source: str) -> list[str]:
    """The source's embeddings that are read as numbers, not as codes."""
    return [name for name in spec.of_kind(source, "embedding") if name not in spec.quantizers]


def content_width(spec: ModelSpec, source: str) -> int:
    """Numbers of what a token of the source says beside its tables and its time."""
    numeric = [name for name in spec.of_kind(source, "numeric") if name != OFFSET]
    embeddings = sum(spec.widths[name] + 1 for name in given_embeddings(spec, source))
    return spec.views * spec.item_dimension + 2 * len(numeric) + embeddings


def encoding_width(spec: ModelSpec, source: str) -> int:
    """Numbers of the time encodings of a token of the source."""
    config = spec.config
    gap = 3 * (config.gap_encoding and spec.token_lookback(source) > 0)
    return gap + 7 * config.clock_encoding + (len(COUNTED_MS) + 1) * config.frequency_encoding


def embedding_table(rows: int, dimension: int, std: float) -> nn.Embedding:
    """Normal rows; row 0, the unknown id, is zero and stays so."""
    table = nn.Embedding(rows, dimension, padding_idx=0)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[0] = 0
    return table


def numbers(values: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, 2) signed log1p of values (n,), 0 where NaN, and whether it is there."""
    there = ~values.isnan()
    filled = torch.where(there, values, 0).to(dtype)
    return torch.stack([filled.sign() * filled.abs().log1p(), there.to(dtype)], dim=-1)


def vectors(values: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, D + 1) the given embeddings (n, D), 0 where NaN, and whether there is one."""
    there = ~values.isnan().any(dim=-1, keepdim=True)
    return torch.cat([torch.where(there, values, 0).to(dtype), there.to(dtype)], dim=-1)


def gap_encoding(tokens: SourceTokens, dtype: torch.dtype) -> Tensor:
    """(T, 3): log of the hours since the user's previous event of the source, its square, and whether there was one."""
    first = torch.zeros(len(tokens.event_time_ms), dtype=torch.bool)
    first[tokens.offsets[:-1][tokens.lengths > 0]] = True
    gap = tokens.event_time_ms.diff(prepend=tokens.event_time_ms[:1]).clamp(min=0).to(dtype) / HOUR_MS
    logarithm = torch.where(first, 0, gap.log1p())
    return torch.stack([logarithm / 4, (logarithm / 4) ** 2, (~first).to(dtype)], dim=-1)


def frequency_encoding(tokens: SourceTokens, lookback: int, dtype: torch.dtype) -> Tensor:
    """(T, 5): logs of how many of the user's `lookback` previous events were known in the last hour, day, week, 28 days, and at all.

    ALURE, section 2.2: absolute encodings "of user engagement frequencies and user engagement order".
    """
    place, users = torch.arange(len(tokens.known_at_ms)), tokens.users()
    earliest = torch.maximum(tokens.offsets[users], place - lookback)
    firsts = [known_ends(tokens, users, tokens.known_at_ms - span) for span in COUNTED_MS]
    counts = torch.stack([place - torch.maximum(first, earliest) for first in (*firsts, earliest)], dim=-1)
    return counts.to(dtype).log1p() / 4


def rotary_angles(tokens: SourceTokens, dtype: torch.dtype) -> Tensor:
    """(T, 4): local hour of day as two harmonics, local weekday with its hour, and the place among the user's events, by tenths.

    Attention sees differences of these angles: that of places is the distance in order.
    """
    local = local_time_ms(tokens)
    day = local.remainder(DAY_MS).to(dtype) * (2 * math.pi / DAY_MS)
    week = local.remainder(7 * DAY_MS).to(dtype) * (2 * math.pi / (7 * DAY_MS))
    place = (torch.arange(len(local)) - tokens.offsets[tokens.users()]).to(dtype)
    angles = torch.stack([day, 2 * day, week, place / 10], dim=-1)
    assert angles.shape[1] == ROTARY_PAIRS
    return angles


def local_time_ms(tokens: SourceTokens) -> Tensor:
    """(T,) int64 wall-clock time as if it were UTC."""
    offset = tokens.numbers.get(OFFSET)
    return tokens.event_time_ms if offset is None else tokens.event_time_ms + (offset.nan_to_num() * MINUTE_MS).to(torch.int64)


def clock_encoding(local_ms: Tensor, dtype: torch.dtype) -> Tensor:
    """(T, 7): hour of day as two harmonics, weekday as one, and whether it is a weekend."""
    day = (local_ms.remainder(DAY_MS).to(dtype) / DAY_MS) * (2 * math.pi)
    weekday = (local_ms.div(DAY_MS, rounding_mode="floor") + EPOCH_WEEKDAY).remainder(7)
    week = weekday.to(dtype) * (2 * math.pi / 7)
    return torch.stack([day.sin(), day.cos(), (2 * day).sin(), (2 * day).cos(), week.sin(), week.cos(), (weekday >= 5).to(dtype)], dim=-1)

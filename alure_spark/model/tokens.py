"""From events to token vectors: content (item, attributes) and the causal time encodings (encodings/; ALURE, section 2.2).

Order enters the attention as a relative distance, or turns its queries and keys (`rotary_angles`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ..batches.batch import SourceTokens
from ..batches.vocabulary import ITEM
from ..clock import DAY_MS
from ..config import ROTARY_PAIRS
from .encodings import encoding_width, encodings_of
from .encodings.clock import OFFSET, local_time_ms
from .linear import Linear, linear
from .named import Modules
from .spec import ModelSpec


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
        self.encodings = encodings_of(spec, source)
        self.project = Linear(content_width(spec, source) + encoding_width(spec, source), config.dimension)
        self.item_width, self.widths = spec.views * spec.item_dimension, spec.widths

    def forward(self, tokens: SourceTokens, item_vectors: Tensor) -> Tensor:
        """(T, d); item_vectors (rows of space item_id, views * item_dimension)."""
        parts = [*self._content(tokens, item_vectors), *self._encodings(tokens, item_vectors.dtype)]
        x = linear(torch.cat(parts, dim=-1), self._weight(tokens), self.project.bias)
        return self._with_tables(x, tokens)

    def apart(self, tokens: SourceTokens, item_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What happened (T, d), and the encodings of when (T, d): together they are the token."""
        content = torch.cat(self._content(tokens, item_vectors), dim=-1)
        encodings = torch.cat([*self._encodings(tokens, item_vectors.dtype), content[:, :0]], dim=-1)
        of_content, of_time = self._weight(tokens).split([content.shape[1], encodings.shape[1]], dim=1)
        x = linear(content, of_content, self.project.bias)
        return self._with_tables(x, tokens), linear(encodings, of_time)

    def of_ads(self, rows: Mapping[str, Tensor], item_vectors: Tensor) -> Tensor:
        """(M, d) what the tokens' own weights say of M ads: rows 'item_id' and any categorical attributes that both have, (M,)."""
        item = nn.functional.embedding(rows[ITEM], item_vectors, padding_idx=0)
        x = linear(item, self.project.weight[:, : item.shape[1]])
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
        lookback = self.spec.token_lookback(self.source, tokens.limit)
        return [one.encode(tokens, lookback, dtype) for one in self.encodings]

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

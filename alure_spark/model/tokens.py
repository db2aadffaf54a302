"""From events to token vectors: content (item, attributes) and the causal time encodings of CFEE (ALURE, section 2.2).

Tokens hold causal facts only (house rule 5): the gap to the user's previous event of the source, local hour and weekday. Order
enters the attention as a relative distance: an absolute place would differ between a long training row and the serving row.
A source that declares the numeric attribute `utc_offset_minutes` has local clocks, any other one UTC.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config import DAY_MS
from .batch import ITEM, SourceTokens
from .spec import ModelSpec

HOUR_MS, MINUTE_MS = 3_600_000, 60_000
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; 0 is Monday
OFFSET = "utc_offset_minutes"


class TokenEmbedding(nn.Module):
    """The tokens (T, d) of one source."""

    def __init__(self, spec: ModelSpec, source: str) -> None:
        super().__init__()
        config = spec.config
        self.categorical = spec.of_kind(source, "categorical")
        self.numeric = [name for name in spec.of_kind(source, "numeric") if name != OFFSET]
        self.gap, self.clock = config.gap_encoding, config.clock_encoding
        self.tables = nn.ModuleDict({name: embedding_table(spec.spaces[name], config.dimension, 0.1) for name in self.categorical})
        width = spec.views * spec.item_dimension + 2 * len(self.numeric) + 3 * self.gap + 7 * self.clock
        self.project = nn.Linear(width, config.dimension)

    def forward(self, tokens: SourceTokens, item_vectors: Tensor) -> Tensor:
        """(T, d); item_vectors (rows of space item_id, views * item_dimension)."""
        parts = [nn.functional.embedding(tokens.rows[ITEM], item_vectors, padding_idx=0)]
        parts += [numbers(tokens.numbers[name], item_vectors.dtype) for name in self.numeric]
        if self.gap:
            parts.append(gap_encoding(tokens, item_vectors.dtype))
        if self.clock:
            parts.append(clock_encoding(local_time_ms(tokens), item_vectors.dtype))
        x = self.project(torch.cat(parts, dim=-1))
        for name in self.categorical:
            x = x + self.tables[name](tokens.rows[name])
        return x


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


def gap_encoding(tokens: SourceTokens, dtype: torch.dtype) -> Tensor:
    """(T, 3): log of the hours since the user's previous event of the source, its square, and whether there was one."""
    first = torch.zeros(len(tokens.event_time_ms), dtype=torch.bool)
    first[tokens.offsets[:-1][tokens.lengths > 0]] = True
    gap = tokens.event_time_ms.diff(prepend=tokens.event_time_ms[:1]).clamp(min=0).to(dtype) / HOUR_MS
    logarithm = torch.where(first, 0, gap.log1p())
    return torch.stack([logarithm / 4, (logarithm / 4) ** 2, (~first).to(dtype)], dim=-1)


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

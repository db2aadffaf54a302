"""Local hour and weekday. A source with the numeric attribute `utc_offset_minutes` has local clocks, any other one UTC."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...batches.batch import SourceTokens
from ...clock import DAY_MS, MINUTE_MS
from .encoding import Encoding

EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; 0 is Monday
OFFSET = "utc_offset_minutes"


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


def token_clock(tokens: SourceTokens, lookback: int, dtype: torch.dtype) -> Tensor:
    """(T, 7): `clock_encoding` of the events."""
    return clock_encoding(local_time_ms(tokens), dtype)


CLOCK = Encoding("clock_encoding", 7, token_clock)

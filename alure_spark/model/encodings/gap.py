"""How long after the user's previous event."""

from __future__ import annotations

import torch
from torch import Tensor

from ...batches.batch import SourceTokens
from ...clock import HOUR_MS
from .encoding import Encoding


def gap_encoding(tokens: SourceTokens, lookback: int, dtype: torch.dtype) -> Tensor:
    """(T, 3): log of the hours since the user's previous event of the source, its square, and whether there was one."""
    first = torch.zeros(len(tokens.event_time_ms), dtype=torch.bool)
    first[tokens.offsets[:-1][tokens.lengths > 0]] = True
    gap = tokens.event_time_ms.diff(prepend=tokens.event_time_ms[:1]).clamp(min=0).to(dtype) / HOUR_MS
    logarithm = torch.where(first, 0, gap.log1p())
    return torch.stack([logarithm / 4, (logarithm / 4) ** 2, (~first).to(dtype)], dim=-1)


GAP = Encoding("gap_encoding", 3, gap_encoding, looks_back=True)

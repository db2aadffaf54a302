"""How many events came before."""

from __future__ import annotations

import torch
from torch import Tensor

from ...batches.batch import SourceTokens
from ...batches.history import known_ends
from ...clock import DAY_MS, HOUR_MS
from .encoding import Encoding

COUNTED_MS = (HOUR_MS, DAY_MS, 7 * DAY_MS, 28 * DAY_MS)


def frequency_encoding(tokens: SourceTokens, lookback: int, dtype: torch.dtype) -> Tensor:
    """(T, 5): logs of how many of the user's `lookback` previous events were known in the last hour, day, week, 28 days, and at all.

    ALURE, section 2.2: absolute encodings "of user engagement frequencies and user engagement order".
    """
    place, users = torch.arange(len(tokens.known_at_ms)), tokens.users()
    earliest = torch.maximum(tokens.offsets[users], place - lookback)
    firsts = [known_ends(tokens, users, tokens.known_at_ms - span) for span in COUNTED_MS]
    counts = torch.stack([place - torch.maximum(first, earliest) for first in (*firsts, earliest)], dim=-1)
    return counts.to(dtype).log1p() / 4


FREQUENCY = Encoding("frequency_encoding", len(COUNTED_MS) + 1, frequency_encoding)

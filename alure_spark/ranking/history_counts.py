"""Fields that are counted from a user's history at the moment of the impression: how often, when last, how much, how often the same.

Enters: the packed tokens of a batch and its impressions. Leaves: one number per impression. What became known at the impression or later
is not counted (house rule 2), and nothing is copied per impression.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batches.batch import Impressions, SourceTokens
from ..batches.history import events_of_rows, history_spans
from ..clock import DAY_MS


def history_count(tokens: SourceTokens, shown: Impressions, what: str, of: str, space: str, days: float) -> Tensor:
    """(M,) float32 of M impressions, of the events known before them, with days above 0 in the last so many days.

    what: count; days_since (the newest of them; NaN without one); sum (of the numeric attribute `of`, missing ones left out); same (events
    whose row of the space is that of the impression's field `of`; 0 for the unknown row).
    """
    users = shown.users()
    span = history_spans(tokens, users, shown.time_ms, len(tokens.known_at_ms), round(days * DAY_MS) if days else None)
    if what == "count":
        return span.counts.float()
    if what == "sum":
        running = F.pad(tokens.numbers[of].double().nan_to_num().cumsum(0), (1, 0))
        return (running[span.end] - running[span.first]).float()
    if what == "same":
        return events_of_rows(tokens, users, span, space, shown.rows[of]).float()
    if not len(tokens.known_at_ms):
        return torch.full((len(users),), torch.nan)
    newest = tokens.known_at_ms[(span.end - 1).clamp(min=0)]
    elapsed = (shown.time_ms - newest).double() / DAY_MS
    return torch.where(span.counts > 0, elapsed, torch.nan).float()

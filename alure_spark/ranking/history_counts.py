"""Fields that are counted from a user's history at the moment of the impression: how often, when last, how much, and of the same.

Enters: the packed tokens of a batch and its impressions. Leaves: one number per impression. What became known at the impression or later
is not counted (house rule 2), and nothing is copied per impression.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batches.batch import Impressions, SourceTokens, ranges
from ..batches.history import SameEvents, history_spans, same_events
from ..clock import DAY_MS
from ..config import DECAYED


def history_count(tokens: SourceTokens, shown: Impressions, what: str, of: str, space: str, days: float) -> Tensor:
    """(M,) float32 of M impressions, of the events known before them, with days above 0 in the last so many days.

    what: count; days_since (the newest of them; NaN without one); sum (of the numeric attribute `of`, missing ones left out). Of the events
    whose row of the space is that of the impression's field `of`, none for the unknown row: same (how many), days_since_same (the newest
    of them; NaN without one), decayed_same (all there are, each as 1/2 to the power of its age in units of days).
    """
    users = shown.users()
    within = days if what != DECAYED else 0.0
    span = history_spans(tokens, users, shown.time_ms, len(tokens.known_at_ms), round(within * DAY_MS) if within else None)
    if what == "count":
        return span.counts.float()
    if what == "sum":
        running = F.pad(tokens.numbers[of].double().nan_to_num().cumsum(0), (1, 0))
        return (running[span.end] - running[span.first]).float()
    if what == "days_since":
        return _days_since(tokens, shown, span.end - 1, span.counts > 0)
    found = same_events(tokens, users, span, space, shown.rows[of])
    if what == "same":
        return found.counts.float()
    if what == DECAYED:
        return _decayed(tokens, shown, found, days)
    newest = found.ordered[(found.high - 1).clamp(min=0)] if len(found.keys) else found.high
    return _days_since(tokens, shown, newest, found.counts > 0)


def _days_since(tokens: SourceTokens, shown: Impressions, newest: Tensor, known: Tensor) -> Tensor:
    """(M,) float32 since the token newest (M,), NaN where none is known (M,) bool."""
    if not len(tokens.known_at_ms):
        return torch.full((len(known),), torch.nan)
    elapsed = (shown.time_ms - tokens.known_at_ms[newest.clamp(min=0)]).double() / DAY_MS
    return torch.where(known, elapsed, torch.nan).float()


def _decayed(tokens: SourceTokens, shown: Impressions, found: SameEvents, half_life_days: float) -> Tensor:
    """(M,) float32. One number for each impression and event of it: at most as many as impressions times what a stream keeps of a user."""
    of = torch.repeat_interleave(torch.arange(len(found.low)), found.counts)
    age = shown.time_ms[of] - tokens.known_at_ms[found.ordered[ranges(found.low, found.counts)]]
    counted = torch.exp2(-age.double() / (half_life_days * DAY_MS))
    return torch.zeros(len(found.low), dtype=torch.float64).index_add(0, of, counted).float()

"""The one rule of time (house rule 2): what may be history at a moment. Every room that looks back calls it."""

from __future__ import annotations

from typing import Any


def known_before(known_at: Any, moment: Any) -> Any:
    """Whether an event is history at the moment: known strictly before it.

    An event is known at max(event_time, arrival_time). Ends are exclusive: what becomes known at t is not history of t.
    Works on Spark Columns and on numpy arrays alike.
    """
    return known_at < moment

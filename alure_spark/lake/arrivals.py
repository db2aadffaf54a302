"""What came into `events` since a job read it, as the runs that brought events say (fact known_from)."""

from __future__ import annotations

from ..clock import parse_time

BRING_EVENTS = ("ingest_events", "replay_quarantine")  # jobs that add rows to `events`


def came_in(known_from: str | None, before_ms: int) -> str:
    """What a run brought, if some of it may have become known before the moment (epoch ms); '' where none can have.

    known_from: the run's fact, the first moment at which one of its events became known; None: it took the whole log.
    """
    if known_from is None:
        return "the whole log"
    return f"events known from {known_from} on" if parse_time(known_from) < before_ms else ""

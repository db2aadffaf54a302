"""Section `ingest`: how raw rows become events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from .rules import OFF_OR_MORE, PositiveFloat, Range, require
from .section import Section, Since

OffsetMinutes = Annotated[int, Range("-840 to 840", least=-840, most=840)]


@dataclass(frozen=True)
class IngestConfig(Section, prefix="ingest."):
    """How raw rows become events; one run takes the whole log, or the batch that became known in the last days before as_of."""

    # Take what was known in [time.as_of - batch_days, time.as_of) and keep the rest; 0 replaces the table.
    batch_days: Annotated[float, OFF_OR_MORE] = 0.0
    # An event that arrived later than so many days after it happened is refused; 0 takes every one.
    late_days: Annotated[float, OFF_OR_MORE] = 0.0
    dwell_from_next: tuple[str, ...] = ()  # streams without dwell: it is the gap to the user's next event, known only then
    session_gap_minutes: PositiveFloat = 30.0  # dwell_from_next: a longer gap ends the session, and the dwell stays unknown
    dwell_min_ms: Annotated[int, OFF_OR_MORE] = 0  # a shorter dwell is no dwell (DynamiX: 250): it becomes null and is counted
    dwell_max_ms: Annotated[int, OFF_OR_MORE] = 0  # so does a longer one; 0 has no upper bound
    # Country -> local time, where an event has none of its own.
    utc_offset_minutes: Mapping[str, OffsetMinutes] = field(default_factory=dict)
    # Refuse a load with a stream that has more or fewer rows than the last one by this share; 0 is off.
    max_row_change: Annotated[float, OFF_OR_MORE] = 0.0
    max_refused_share: Annotated[float, OFF_OR_MORE] = 0.0  # refuse a load of whose rows a larger share is refused; 0 is off
    # Refuse a load with a mapped table, or a batch, of which nothing is left; such tables are reported in any case.
    refuse_empty: Annotated[bool, Since("2026-11-28")] = True
    # Refuse a load in which a column is missing more often than in the last one by this share; 0 is off.
    max_null_rise: Annotated[float, OFF_OR_MORE] = 0.0
    hash_user_ids: bool = False  # user ids become HMAC-SHA256 under the key in the environment variable ALURE_USER_KEY

    def check_together(self) -> None:
        bound = not self.dwell_max_ms or self.dwell_min_ms <= self.dwell_max_ms
        require(bound, "ingest.dwell_min_ms", self.dwell_min_ms, "at most ingest.dwell_max_ms, else no dwell is left")

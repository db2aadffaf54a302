"""Section `streams`: the sources (named streams) of events and what of them goes into the sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from ..clock import DAY_MS
from ..tables import ATTRIBUTE_TYPES
from .rules import OneOf, PositiveInt, Range
from .section import Section

AttributeKind = Annotated[str, OneOf(tuple(ATTRIBUTE_TYPES))]


@dataclass(frozen=True)
class StreamConfig(Section):
    """One source (named stream) of events and what of it goes into the sequences."""

    attributes: Mapping[str, AttributeKind] = field(default_factory=dict)  # name -> categorical | numeric | text | embedding
    max_events: PositiveInt = 512  # the last N events of a user that a sequence keeps
    # Of these, only the ones known in the last days before as_of; 0 keeps them however old.
    max_days: Annotated[float, Range("0 (no limit) or more", least=0)] = 0.0

    @property
    def max_days_ms(self) -> int:
        return round(self.max_days * DAY_MS)

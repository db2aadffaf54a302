"""Section `retrieval`: which ads the users of the graph pass on to each other (ALURE, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from ..tables import ORIGIN_BITS
from .rules import ABOVE_ZERO, OFF_OR_MORE, Largest, NonNegativeInt, OneOf, PositiveFloat
from .section import Section

OriginName = Annotated[str, OneOf(tuple(ORIGIN_BITS))]
Weight = Annotated[float, Largest(1_000_000)]


@dataclass(frozen=True)
class RetrievalConfig(Section, prefix="retrieval."):
    """User-to-user retrieval of ads (ALURE, section 4)."""

    cap: Annotated[int, ABOVE_ZERO, Largest(10_000_000)] = 1500  # candidates per user
    event_weights: Mapping[str, Weight] = field(default_factory=lambda: {"ad_click": 1.0, "conversion": 2.0})  # for ads
    account_weights: Mapping[str, Weight] = field(default_factory=lambda: {"ad_click": 0.1, "conversion": 0.2})  # for accounts
    half_life_days: PositiveFloat = 30.0  # an engagement counts half after so many days
    # The strongest ads (and accounts) of a neighbour that are passed on.
    max_engagements_per_user: Annotated[int, ABOVE_ZERO, Largest(10_000_000)] = 200
    # Graph, or standalone (transfer.retrieval) -> most candidates of a user that nothing else leads to.
    quota: Mapping[OriginName, NonNegativeInt] = field(default_factory=dict)
    excluded_by: tuple[str, ...] = ()  # streams besides event_weights' whose ads the same user does not get: seen, hidden
    excluded_ads: tuple[str, ...] = ()  # nobody gets them
    excluded_accounts: tuple[str, ...] = ()
    # Candidates also go to serving_candidates and expire so long after as_of; 0: they do not go there.
    hand_off_hours: Annotated[float, OFF_OR_MORE] = 0.0

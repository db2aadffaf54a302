"""Section `dynamix`: how dwell and conversion are counted, and which users are active (DynamiX, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import Largest, OneOf, PositiveFloat, PositiveInt, Range, require
from .section import Section

PASSIVE, ACTIVE = "passive", "active"
ALL_SURFACES = "ALL"  # the surface of what is of a user as a whole


@dataclass(frozen=True)
class DynamixConfig(Section, prefix="dynamix."):
    """Which impressions tell how a user's dwell goes with conversions, and where active begins (DynamiX, section 3)."""

    impression_source: str = "ad_impression"  # with dwell_ms
    conversion_sources: tuple[str, ...] = ("ad_click", "conversion")
    window_seconds: PositiveFloat = 300.0  # s: a conversion in [t - buffer, t + s] belongs to the impression at t, both ends included
    buffer_seconds: float = 60.0  # conversions are logged up to so long before their impression
    dwell_min_ms: int = 250  # a shorter dwell is left out
    dwell_max_ms: int = 3_600_000  # and a longer one
    day_windows: Annotated[int, OneOf((1, 2, 3, 4, 6, 8, 12, 24))] = 1  # equal parts into which the user's local day is split; 1: none
    # Statistics of the impressions of the last days; 0: of all there ever were.
    history_days: Annotated[float, Range("0 (all) or more", least=0)] = 0.0
    valid_hours: Annotated[float, Range("above 0, to 24", above=0, most=24)] = 24.0  # for how long after as_of the segments hold
    shrinkage: bool = True  # draw the correlation of users with few impressions towards that of all (empirical Bayes)
    # share: so that active_share of the impressions are of active users; or given: thresholds.
    threshold: Annotated[str, OneOf(("share", "given"))] = "share"
    active_share: Annotated[float, Range("between 0 and 1", above=0, below=1)] = 0.6667
    compare_seeds: tuple[int, ...] = (7, 8, 9)  # of models and training, each of which jobs/compare_policies.py tries
    compare_rounds: Annotated[PositiveInt, Largest(1_000_000)] = 5  # in which it times every policy
    thresholds: tuple[float, ...] = ()  # given: |corr| above the n-th makes level n; level 0 is passive, 1 active, 2 active_2, ..

    def check_together(self) -> None:
        rising = list(self.thresholds) == sorted(set(self.thresholds)) and all(value >= 0 for value in self.thresholds)
        enough = self.threshold == "share" or bool(self.thresholds)
        for name, good, allowed in (
            ("buffer_seconds", 0 <= self.buffer_seconds <= self.window_seconds, "0 to dynamix.window_seconds"),
            ("dwell_min_ms", 0 < self.dwell_min_ms < self.dwell_max_ms, "1 to below dynamix.dwell_max_ms"),
            ("thresholds", rising, "rising numbers, none below 0"),
            ("compare_seeds", len(self.compare_seeds) > 0, "at least one seed"),
            ("thresholds", enough, "at least one, where dynamix.threshold is given"),
        ):
            require(good, f"dynamix.{name}", getattr(self, name), allowed)

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments that there can be: that of level 0 first."""
        levels = len(self.thresholds) if self.threshold == "given" else 1
        return (PASSIVE, ACTIVE, *(f"{ACTIVE}_{level}" for level in range(2, levels + 1)))

    @property
    def window_ms(self) -> int:
        return round(self.window_seconds * 1000)

    @property
    def buffer_ms(self) -> int:
        return round(self.buffer_seconds * 1000)

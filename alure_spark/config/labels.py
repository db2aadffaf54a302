"""Section `labels`: which impressions are labeled, and by which responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..clock import DAY_MS, EARLIEST_MS, HOUR_MS
from .rules import ABOVE_ZERO, PositiveFloat, Range, require
from .section import Section, Since

DEFAULT_TASKS = ("click", "conversion")  # what a conf without tasks trains for, and every model of before 2026-11-29


@dataclass(frozen=True)
class LabelConfig(Section, prefix="labels."):
    """Which streams make labeled impressions, and how long after one a response still counts (both ends included)."""

    impression_source: str = "ad_impression"
    click_source: str = "ad_click"
    conversion_source: str = "conversion"
    click_window_hours: PositiveFloat = 24.0
    conversion_window_hours: PositiveFloat = 168.0
    # A response that names its impression may be earlier than it by so much: it counts as at it.
    clock_skew_seconds: Annotated[float, Range("0 (off) to 3600", least=0, most=3600), Since("2026-11-28")] = 0.0
    days: float = 0.0  # examples of the impressions in the last days before as_of; 0: of all there ever were, which reads all events
    validation_days: PositiveFloat = 7.0  # impressions in the last days before as_of are the validation split
    max_impressions: Annotated[int, ABOVE_ZERO] = 1024  # the last impressions of a user that a training row keeps
    hold_back_immature: bool = False  # leave out impressions whose windows are still open at as_of (else label_age_ms says so)
    # Share of the training split's impressions without a response that stay; each weighs 1 / rate. It is drawn in millionths
    # (events/examples.py): of a smaller share nothing would be left, at a weight beyond counting.
    negative_rate: Annotated[float, Range("0.000001 to 1", least=1e-6, most=1)] = 1.0
    impression_attributes: tuple[str, ...] = ()  # attributes of the impression's stream that are known before the ad is shown

    def check_together(self) -> None:
        enough = self.days == 0 or self.days > self.validation_days
        require(enough, "labels.days", self.days, "0 (all), or more than labels.validation_days")

    def first_ms(self, as_of_ms: int) -> int | None:
        """When the first impression of the examples of as_of may have happened, epoch ms; None without a limit."""
        return max(as_of_ms - round(self.days * DAY_MS), EARLIEST_MS) if self.days else None

    @property
    def responses(self) -> tuple[tuple[str, str, float], ...]:
        """(label, stream of its responses, window in hours) of each label."""
        return (
            ("click", self.click_source, self.click_window_hours),
            ("conversion", self.conversion_source, self.conversion_window_hours),
        )

    @property
    def clock_skew_ms(self) -> int:
        return round(self.clock_skew_seconds * 1000)

    @property
    def validation_ms(self) -> int:
        return round(self.validation_days * DAY_MS)

    @property
    def window_ms(self) -> int:
        """How old an impression must be for both of its labels to be final, but for responses that arrive late."""
        return round(max(self.click_window_hours, self.conversion_window_hours) * HOUR_MS)

"""Section `ranking.online`: how a ranking model goes on learning through the day, and how long responses are waited for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ..clock import DAY_MS, HOUR_MS, MINUTE_MS
from .rules import NonNegativeFloat, PositiveFloat, PositiveInt, require
from .section import Section


@dataclass(frozen=True)
class OnlineConfig(Section, prefix="ranking.online."):
    """What jobs/learn_ranking.py does (Pan et al., section 6.3). It learns by cross entropy, whatever ranking.loss says."""

    every_minutes: PositiveInt = 15  # how much of the log a step learns; a day is a whole number of them
    learning_rate: PositiveFloat = 1e-3  # of Adam; rows of tables learn faster by ranking.table_learning_rate_share
    # Whose responses are looked at to tell how long they are waited for: account_id, ad_id, or a categorical attribute of impressions.
    account: str = "account_id"
    waits_hours: tuple[NonNegativeFloat, ...] = (0.0, 24.0, 48.0, 72.0, 120.0, 168.0)  # to choose from, ascending; 0 alone: no waiting
    history_days: PositiveInt = 14  # of each account's samples that decide its wait, anew at every midnight of UTC
    # The shortest wait is taken with which the rate of an account strayed from day to day by no more than this share beyond chance.
    most_unrest: PositiveFloat = 0.3
    least_responses: PositiveInt = 20  # in these days; an account with fewer has the shortest wait
    # An impression that becomes known later than so long after it was shown is left out, and counted; answers are waited for as long.
    late_minutes: NonNegativeFloat = 60.0
    report_hours: NonNegativeFloat = 24.0  # a response that becomes known later than so long after it happened is left out, and counted
    # A version is registered when the learnt time passes a multiple of so many hours, if it predicted no worse than the model it began as.
    publish_hours: PositiveInt = 24

    def check_together(self) -> None:
        require(1440 % self.every_minutes == 0, "ranking.online.every_minutes", self.every_minutes, "a divisor of 1440, a day's minutes")
        ascending = all(first < second for first, second in pairwise(self.waits_hours))
        require(bool(self.waits_hours) and ascending, "ranking.online.waits_hours", self.waits_hours, "one or more, ascending")

    @property
    def every_ms(self) -> int:
        return self.every_minutes * MINUTE_MS

    @property
    def late_ms(self) -> int:
        return round(self.late_minutes * MINUTE_MS)

    @property
    def report_ms(self) -> int:
        return round(self.report_hours * HOUR_MS)

    @property
    def waits_ms(self) -> tuple[int, ...]:
        return tuple(round(hours * HOUR_MS) for hours in self.waits_hours)

    def horizon_ms(self, window_ms: int) -> int:
        """How long after it was shown an impression may still make a sample; window_ms: the longest in which a response counts."""
        return max(window_ms + max(self.report_ms, self.late_ms), self.waits_ms[-1], self.late_ms)

    def lookback_ms(self, window_ms: int) -> int:
        """Whose samples decide waits: impressions shown so long before the midnight, or later."""
        return self.history_days * DAY_MS + self.horizon_ms(window_ms)

"""Section `time`: the moment at which histories end, and which event times are believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..clock import DAY_MS, FIRST_AS_OF_MS, LAST_AS_OF_MS, parse_time
from ..errors import ConfigError
from .rules import PositiveFloat, or_empty, require
from .section import Section


def check_time(path: str, value: str) -> None:
    """An ISO 8601 time."""
    parse_time(value, path)


def check_as_of(path: str, value: str) -> None:
    """A time from which a duration of any length ends within the calendar."""
    require(FIRST_AS_OF_MS <= parse_time(value, path) <= LAST_AS_OF_MS, path, value, "a time in the years 1400 to 8000")


@dataclass(frozen=True)
class TimeConfig(Section, prefix="time."):
    as_of: Annotated[str, or_empty(check_as_of)] = ""  # ISO 8601, UTC where no offset is given; histories and labels end here, exclusive
    horizon_days: PositiveFloat = 30.0  # evaluation looks at [as_of, as_of + horizon_days)
    not_before: Annotated[str, or_empty(check_time)] = "1990-01-01T00:00:00Z"  # earlier event times are quarantined
    not_after: Annotated[str, or_empty(check_time)] = ""  # later event times are quarantined as future; '' is the clock of the job

    @property
    def as_of_ms(self) -> int:
        """Epoch milliseconds of as_of. Raises ConfigError when it is not set."""
        if not self.as_of:
            raise ConfigError("time.as_of is not set: give the cut as ISO 8601, e.g. --set time.as_of=2017-11-01T00:00:00Z")
        return parse_time(self.as_of, "time.as_of")

    @property
    def horizon_end_ms(self) -> int:
        return self.as_of_ms + round(self.horizon_days * DAY_MS)

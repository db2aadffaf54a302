"""Time: its units, its limits, how it is read and written, and the one rule of what may be history at a moment.

Times are epoch milliseconds in UTC. An event is known at max(event_time, arrival_time), and it is history at a moment if
known_at < moment: ends are exclusive, so what becomes known at as_of is not history of as_of. `known_before` is that rule (house
rule 2), and every room that looks back calls it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from .errors import ConfigError, shown

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MINUTE_MS = 60_000
YEAR_MS = 365.2425 * DAY_MS
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999  # years 1 to 9999: what datetime and TIMESTAMP hold
NEVER_MS = 2**63 - 1  # when something becomes known that never does
EARLIEST_MS = -62_104_060_800_000  # 0002-01-01: where "so many days before as_of" would begin earlier, it begins here
FIRST_AS_OF_MS, LAST_AS_OF_MS = -17_987_443_200_000, 190_288_396_800_000  # years 1400 to 8000
LONGEST_DAYS = 500_000  # of a duration: from any as_of it reaches a time that a TIMESTAMP can hold


def known_before(known_at: Any, moment: Any) -> Any:
    """Whether an event is history at the moment: known strictly before it. Works on Spark Columns and on numpy arrays alike."""
    return known_at < moment


def parse_time(text: str, path: str = "time") -> int:
    """Epoch milliseconds of an ISO 8601 time; UTC where it carries no offset. Raises ConfigError."""
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        raise ConfigError(f"{path} is {shown(text)}; allowed: ISO 8601, e.g. 2017-11-01T00:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    epoch_ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    if not FIRST_MS <= epoch_ms <= LAST_MS:  # the offset takes it out of the calendar
        raise ConfigError(f"{path} is {shown(text)}; allowed: a time in the years 1 to 9999 of UTC")
    return epoch_ms


def parse_minutes(text: str, path: str) -> int:
    """Minutes of a duration such as 15m or 1h. Raises ConfigError."""
    number, unit = text[:-1], text[-1:]
    if unit not in ("m", "h") or not number.isdigit() or not int(number):
        raise ConfigError(f"{path} is {shown(text)}; allowed: minutes or hours above 0, e.g. 15m or 1h")
    return int(number) * (60 if unit == "h" else 1)


def format_time(epoch_ms: int) -> str:
    """'2017-11-01 00:00:00.000' in UTC: the inverse of parse_time, as a Spark TIMESTAMP literal takes it.

    A moment outside the years 1 to 9999, as a wrong unit makes it, comes as 'the year 49970 or so (1514764800000000 ms)'.
    """
    try:
        moment = datetime(1970, 1, 1) + timedelta(milliseconds=epoch_ms)
    except OverflowError:
        return f"the year {1970 + int(epoch_ms // YEAR_MS)} or so ({epoch_ms} ms)"
    return moment.isoformat(sep=" ", timespec="milliseconds")

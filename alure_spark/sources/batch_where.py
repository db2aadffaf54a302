"""The condition that reads less of a table for a batch: its placeholders become the times of the batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ..clock import format_time
from ..errors import ConfigError

# Of batch_where, for a batch of events known in [from, to): UTC times, UTC days (a day column of type text is compared as text: with
# "dt >= '{from_date}' AND dt <= '{to_date}'" no event of the batch is lost), and milliseconds since 1970.
PLACEHOLDERS: Mapping[str, Callable[[int, int], str]] = {
    "from": lambda first, _: format_time(first),
    "to": lambda _, end: format_time(end),
    "from_date": lambda first, _: format_time(first)[:10],
    "to_date": lambda _, end: format_time(end)[:10],
    "from_ms": lambda first, _: str(first),
    "to_ms": lambda _, end: str(end),
}


def filled(batch_where: str, name: str, batch: tuple[int, int]) -> str:
    """The condition with the times of the batch for its placeholders. Raises ConfigError on other braces; {{ and }} stand for one."""

    def one(found: re.Match[str]) -> str:
        text = found.group()
        if text in ("{{", "}}"):
            return text[0]
        if text[1:-1] not in PLACEHOLDERS:
            allowed = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise ConfigError(
                f"table {name}: batch_where is {batch_where!r}, and {text} in it stands for nothing; allowed: {allowed}; a brace that is "
                "meant as one is doubled"
            )
        return PLACEHOLDERS[text[1:-1]](*batch)

    return re.sub(r"\{\{|\}\}|\{[^{}]*\}|[{}]", one, batch_where)

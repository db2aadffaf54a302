"""A part of a chain of jobs, by the names of its first and last stage."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError, nearest


def part_of(names: Sequence[str], first: str = "", last: str = "") -> list[str]:
    """The names from the first to the last one, both included; '' is either end. Raises ConfigError on an unknown or reversed pair."""
    for name in (first, last):
        if name and name not in names:
            raise ConfigError(f"there is no stage '{name}'{nearest(name, names)}")
    start, end = names.index(first or names[0]), names.index(last or names[-1])
    if start > end:
        raise ConfigError(f"--from {first} comes after --to {last}; the order is {', '.join(names)}")
    return list(names[start : end + 1])

"""What a setting may hold, declared in its type: `k2: PositiveInt = 15`, `search: Annotated[str, OneOf(("auto", "exact"))] = "auto"`.

A rule is called with the setting's path and its value, and raises ConfigError with one sentence: where, the value, what is allowed.
Every instance of a section is checked by the rules of its fields (section.py).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from ..clock import LONGEST_DAYS
from ..errors import ConfigError, nearest, shown
from .yaml_text import shown_at

Rule: TypeAlias = Callable[[str, Any], None]

PER_DAY = {"days": 1, "hours": 24, "minutes": 1440, "seconds": 86_400, "ms": 86_400_000}
LARGEST_SEED = 2**63 - 1
LARGEST_NUMBER = 1e15
LARGEST_COUNT = 1_000_000_000  # with room below the 2^31 of Spark's INT and of the JVM's arrays


def require(condition: bool, path: str, value: object, allowed: str) -> None:
    """Raises ConfigError unless the condition holds."""
    if not condition:
        raise ConfigError(f"{path} is {shown_at(value, path)}; allowed: {allowed}")


def require_known(path: str, name: str, known: Iterable[str], kind: str = "") -> None:
    """Raises ConfigError, with the nearest known name, where the setting at the path names something (of that kind) that is not known."""
    known = tuple(known)
    if name not in known:
        raise ConfigError(f"{path} names {kind and f'the {kind} '}{shown(name)}{nearest(name, known)}")


@dataclass(frozen=True)
class Range:
    """The numbers between bounds, and how a sentence says so. `least` and `most` are allowed themselves, `above` and `below` are not."""

    allowed: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __call__(self, path: str, value: float) -> None:
        inside = (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )
        require(inside, path, value, self.allowed)


@dataclass(frozen=True)
class OneOf:
    """One of these values."""

    values: tuple[Any, ...]

    def __call__(self, path: str, value: object) -> None:
        require(value in self.values, path, value, ", ".join(map(str, self.values)))


@dataclass(frozen=True)
class Largest:
    """The largest size of a number that a machine would allocate, or count through, at once: checked where a conf is read."""

    size: float


def or_empty(rule: Rule) -> Rule:
    """The rule for a text that may also be ''."""

    def check_unless_empty(path: str, value: str) -> None:
        if value:
            rule(path, value)

    return check_unless_empty


ABOVE_ZERO = Range("a number above 0", above=0)
ZERO_OR_MORE = Range("0 or more", least=0)
OFF_OR_MORE = Range("0 (off) or more", least=0)
PositiveInt = Annotated[int, Range("an integer of at least 1", least=1)]
PositiveFloat = Annotated[float, ABOVE_ZERO]
NonNegativeInt = Annotated[int, ZERO_OR_MORE]
NonNegativeFloat = Annotated[float, ZERO_OR_MORE]
ShareBelowOne = Annotated[float, Range("above 0 and below 1", above=0, below=1)]


def check(hint: Any, value: Any, path: str) -> None:
    """Calls every rule in a type on the value, and on the keys and items of mappings and tuples; a key at the path of its mapping."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for rule in filter(callable, hint.__metadata__):
            rule(path, value)
        check(arguments[0], value, path)
    elif origin in (types.UnionType, typing.Union):
        if value is not None:
            check(of_optional(hint), value, path)
    elif origin is tuple:
        for place, item in enumerate(value):
            check(arguments[0], item, f"{path}[{place}]")
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        for key, item in value.items():
            check(arguments[0], key, path)
            check(arguments[1], item, f"{path}.{key}")


def of_optional(hint: Any) -> Any:
    """X of the type `X | None`."""
    return next(item for item in typing.get_args(hint) if item is not type(None))


def largest_by_name(name: str) -> float | None:
    """How large a number may be whose setting's name says what it is: a seed, or a duration, by the unit that ends the name."""
    unit = name.rsplit("_", 1)[-1]
    if unit in ("seed", "seeds"):
        return LARGEST_SEED
    return LONGEST_DAYS * PER_DAY[unit] if unit in PER_DAY else None


def check_size(path: str, value: float, largest: float | None) -> None:
    """A number that jobs can count with: finite, and of no larger size than that; None: than any number, or any count, may have."""
    most = largest or (LARGEST_NUMBER if isinstance(value, float) else LARGEST_COUNT)
    if not abs(value) <= most:  # NaN is not, either
        raise ConfigError(f"{path} is {shown(value)}; allowed: a finite number of at most {most:,}")

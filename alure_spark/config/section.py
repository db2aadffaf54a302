"""What all sections share: an instance is checked when it is made, becomes plain values, and counts in digests."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, ClassVar

from .rules import check


def _hints(cls: Any) -> dict[str, Any]:
    """Field of a dataclass -> its type, with what is annotated."""
    found = typing.get_type_hints(cls, include_extras=True)
    return {item.name: found[item.name] for item in dataclasses.fields(cls)}


hints: Callable[[Any], dict[str, Any]] = functools.cache(_hints)


class Section:
    """A frozen dataclass whose types hold the rules of its settings (rules.py). prefix: what stands before their names in sentences."""

    prefix: ClassVar[str] = ""

    def __init_subclass__(cls, prefix: str = "") -> None:
        cls.prefix = prefix

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            check(hint, getattr(self, name), f"{self.prefix}{name}")
        self.check_together()

    def check_together(self) -> None:
        """What no setting tells by itself. Raises ConfigError."""


@dataclass(frozen=True)
class Since:
    """The day on which a setting came (ISO 8601): at its default it leaves alone what was hashed before, see as_dict."""

    day: str


def as_dict(config: Any, until: str = "") -> dict[str, Any]:
    """The dataclass as plain YAML-able values; until: a day, settings that came later are left out where they are at their default."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            names = [item.name for item in dataclasses.fields(value) if not (until and is_new(value, item))]
            return {name: plain(getattr(value, name)) for name in names}
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    def is_new(value: Any, item: dataclasses.Field[Any]) -> bool:
        default = item.default if item.default_factory is MISSING else item.default_factory()
        return _since(hints(type(value))[item.name]) > until and getattr(value, item.name) == default

    result: dict[str, Any] = plain(config)
    return result


def _since(hint: Any) -> str:
    """The day on which a setting of that type came; '' where it does not say."""
    annotations = hint.__metadata__ if typing.get_origin(hint) is Annotated else ()
    return next((item.day for item in annotations if isinstance(item, Since)), "")


def digest_of(values: Any) -> str:
    """Hash of plain values, 16 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

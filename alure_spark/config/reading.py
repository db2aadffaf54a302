"""A conf in YAML, with overrides -> Config; and plain values -> any dataclass (a source's options, the spec of a saved model).

Keys and types are checked here, what a section may hold where it is made. Each error is one sentence.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeVar

from ..errors import ConfigError, nearest, shown
from ..masking import MASK, SECTIONS, is_secret, masked_text
from .root import Config
from .rules import Largest, check_size, largest_by_name, of_optional
from .section import hints
from .yaml_text import plain, read_file, read_override, shown_at

T = TypeVar("T")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, with overrides of the form 'a.b=c' applied (values are read as YAML)."""
    values = read_file(path)
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path} holds {shown(values)}; allowed: a mapping of sections")
    values = values or {}
    for override in overrides:
        _override(values, override)
    return build(Config, values)


def _override(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {shown(override)}: the form is a.b=value")
    name = f"{dotted.strip()}={MASK}" if dotted.strip().startswith(SECTIONS) and is_secret(dotted) else masked_text(override)
    *parents, last = keys
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {shown(name)}: {shown(parent)} holds a value, not a section")
    try:
        value = read_override(text, f"--set {dotted.strip()}")
    except ConfigError:
        if MASK not in name:
            raise
        raise ConfigError(f"--set {name}: the value is not valid YAML") from None
    values[last] = "" if value is None else value


def build(cls: type[T], values: Mapping[str, Any] | None, path: str = "") -> T:
    """An instance of the dataclass from nested plain values.

    Raises ConfigError on an unknown key (naming the nearest known one) or a value of the wrong type.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'the configuration'} is {shown_at(values, path)}; allowed: a mapping")
    known = hints(cls)
    arguments = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in known:
            raise ConfigError(f"unknown configuration key {shown(where)}{nearest(str(key), known)}")
        arguments[key] = _convert(known[key], value, where, largest_by_name(key))
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if item.name not in arguments and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(f"{path or 'the configuration'} lacks the key '{item.name}'")
    try:
        return cls(**arguments)
    except ConfigError as error:
        text, prefix = str(error), getattr(cls, "prefix", "")
        if path and prefix and text.startswith(prefix):  # of which one, where a mapping holds several
            raise ConfigError(f"{path}.{text.removeprefix(prefix)}") from None
        raise ConfigError(f"{path}: {text}" if path and not text.startswith(path.split(".")[0]) else text) from None


def _convert(hint: Any, value: Any, path: str, largest: float | None) -> Any:
    """The value as the type wants it; largest: the size that its numbers may have, unless the type says another one."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        sizes = [item.size for item in hint.__metadata__ if isinstance(item, Largest)]
        return _convert(arguments[0], value, path, sizes[0] if sizes else largest)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(of_optional(hint), value, path, largest)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path} is {shown_at(value, path)}; allowed: a list")
        return tuple(_convert(arguments[0], item, f"{path}[{place}]", largest) for place, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} is {shown_at(value, path)}; allowed: a mapping")
        return {str(key): _convert(arguments[1], item, f"{path}.{key}", largest) for key, item in value.items()}
    if hint is Any:
        return plain(value, path)
    if hint is str and isinstance(value, date):  # YAML reads an unquoted time as one
        return value.isoformat()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number if hint is float else isinstance(value, hint) and (number or hint is not int)):
        raise ConfigError(f"{path} is {shown_at(value, path)}; allowed: {hint.__name__}{_remedy(hint, value)}")
    if number:
        check_size(path, value, largest)
    return float(value) + 0.0 if hint is float else value  # no -0.0


def _remedy(hint: Any, value: Any) -> str:
    """What YAML made of what was written, where it is known to surprise."""
    if hint is str and isinstance(value, bool):
        return " (without quotes YAML reads yes, no, on, off, true and false as booleans, also NO for Norway: put the text in quotes)"
    if hint is str and isinstance(value, int | float):
        return " (without quotes YAML reads it as a number: put the text in quotes)"
    if hint in (int, float) and isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", value):
        plainly = int(float(value)) if float(value).is_integer() and abs(float(value)) < 1e15 else float(value)
        return f" (YAML reads {value} as text: write {plainly})"
    return ""

"""YAML as a person writes it -> plain values, or one sentence that says where and why not.

Stricter than YAML 1.1: every key is text and comes once; there are no tags, no endless aliases, no numbers beyond 64 bits. What YAML
silently reads as something else is refused with the remedy: as a key (NO as False), and as a number (024 as 20, 1:30 as 90).
"""

from __future__ import annotations

import math
import os
import re
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, shown
from ..masking import masked_at

MOST_BYTES = 10_000_000
MOST_VALUES = 100_000  # after aliases are spelled out: nine lines of nine aliases each would make a billion
WHOLE_NUMBERS = range(-(2**63), 2**63)
_CORE = "tag:yaml.org,2002:"
_SCALARS = {"null", "bool", "int", "float", "str", "timestamp", "value"}
_READ_ODDLY = re.compile(r"[-+]?(0[0-7_]*[0-7]|[0-9][0-9_]*(:[0-9_]+)+(\.[0-9_]*)?)$")  # 024 is 20 to YAML, 1:30 is 90
_READ_AS = {bool: "the boolean", int: "the number", float: "the number"}


def read_file(path: str | Path) -> Any:
    """The values in a YAML file; None for an empty one. Raises ConfigError."""
    file = Path(path)
    try:
        if not file.is_file():
            kind = "a folder" if file.is_dir() else ""
            found = ", ".join(sorted(item.name for item in file.parent.glob("*.yml"))) if file.parent.is_dir() else ""
            lacking = f"{file} is {kind}, no configuration file" if kind else f"there is no configuration file {file}"
            raise ConfigError(lacking + (f"; found there: {found}" if found else ""))
        if os.path.getsize(file) > MOST_BYTES:
            raise ConfigError(f"{file} has {os.path.getsize(file):,} bytes; allowed: at most {MOST_BYTES:,}, so it is no configuration")
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"the configuration file {shown(str(file))} cannot be read: {error.strerror or error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file} is not UTF-8 text (byte 0x{content[error.start]:02x} in line {line}): save it as UTF-8") from None
    return read_text(text, str(file))


def read_text(text: str, name: str) -> Any:
    """The values in a YAML text; None for an empty one. Raises ConfigError that begins with the name."""
    return _Reader(text, name).value()


def read_override(text: str, name: str) -> Any:
    """The value of `--set a.b=TEXT`, read as YAML; a text with ' #' in it is no comment there. Raises ConfigError."""
    reader = _Reader(text, name)
    value = reader.value()
    if isinstance(value, str | None) and "#" in text[reader.end :] and text[:1] not in ("'", '"'):
        return text.strip()
    return value


class _Reader:
    """One document. Aliases become copies: a later change of one place must not reach the other."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.values, self.end = 0, len(text)

    def value(self) -> Any:
        try:
            self.loader = yaml.SafeLoader(self.text)
            node = self.loader.get_single_node()
            if node is None:
                self.end = 0
                return None
            self.end = node.end_mark.index
            return self._value(node, "", ())
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.name} is not valid YAML: {_problem(error)}") from None
        except RecursionError:
            raise ConfigError(f"{self.name} is nested too deeply to be read") from None

    def _value(self, node: yaml.Node, path: str, above: tuple[int, ...], is_key: bool = False) -> Any:
        self.values += 1
        if self.values > MOST_VALUES:
            raise ConfigError(f"{self.name} holds more than {MOST_VALUES:,} values once its aliases (*name) are spelled out")
        if id(node) in above:
            raise self._error(node, f"{path} holds itself (an alias inside of what it names)")
        above = (*above, id(node))
        tag = node.tag.removeprefix(_CORE)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self._value(item, f"{path}[{place}]", above) for place, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._mapping(node, path, above)
        if isinstance(node, yaml.ScalarNode) and tag in _SCALARS:
            return self._scalar(node, tag, path, is_key)
        said = "<<" if tag == "merge" else f"!!{tag}" if tag != node.tag else tag
        raise self._error(
            node, f"{path or 'the whole'} has the tag {shown_at(said, path)}; allowed: plain texts, numbers, lists and mappings"
        )

    def _mapping(self, node: yaml.MappingNode, path: str, above: tuple[int, ...]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_CORE}merge":  # <<: *name
                for part in self._merged(value_node, path, above):
                    merged.update(part)
                continue
            key = self._key(key_node, path, above)
            where = f"{path}.{key}" if path else key
            if key in own:
                raise self._error(key_node, f"the key {shown(where)} is there twice: leave one")
            own[key] = self._value(value_node, where, above)
        return merged | own

    def _merged(self, node: yaml.Node, path: str, above: tuple[int, ...]) -> list[dict[str, Any]]:
        """What `<<` brings in, the weaker first."""
        value = self._value(node, f"{path}.<<" if path else "<<", above)
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self._error(node, f"{path or 'the whole'} merges (<<) what is no mapping; allowed: mappings")
        return parts[::-1]

    def _key(self, node: yaml.Node, path: str, above: tuple[int, ...]) -> str:
        key = self._value(node, path, above, is_key=True)
        place = f"of {path}" if path else "at the top"
        if isinstance(key, str) and key:
            return key
        if not isinstance(node, yaml.ScalarNode) or isinstance(key, str):
            raise self._error(node, f"a key {place} is {shown(key)}; allowed: text")
        read_as = f"{_READ_AS.get(type(key), 'the date')} {key}" if key is not None else "nothing (null)"
        written = shown(node.value)[1:-1]
        raise self._error(node, f"the key {written} {place} is read by YAML as {read_as}; allowed: text: write '{written}' in quotes")

    def _scalar(self, node: yaml.ScalarNode, tag: str, path: str, is_key: bool) -> Any:
        try:
            value = node.value if tag == "value" else self.loader.construct_object(node)
        except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError):
            if tag == "timestamp":  # 2025-02-30: text to whom it may concern
                return node.value
            raise self._error(node, f"{path or 'the value'} is {shown_at(node.value, path)}, which YAML cannot read as {tag}") from None
        if not is_key and tag in ("int", "float") and _READ_ODDLY.match(node.value):
            secret = masked_at(node.value, path) != node.value
            said = "a number" if secret else node.value[:40]
            otherwise, remedy = ("another one", "") if secret else (value, f"write {value}, or ")
            raise self._error(
                node, f"{path or 'the value'} is {said}, which YAML reads as {otherwise}: {remedy}put it in quotes for a text"
            )
        if isinstance(value, int) and value not in WHOLE_NUMBERS:
            raise self._error(node, f"{path or 'the value'} is {shown_at(node.value, path)}; allowed: whole numbers of at most 64 bits")
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self._error(node, f"{path or 'the value'} is {shown_at(value, path)}, which holds half a character (a surrogate)")
        return value

    def _error(self, node: yaml.Node, sentence: str) -> ConfigError:
        return ConfigError(f"{self.name}, line {node.start_mark.line + 1}: {sentence}")


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, in one line."""
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or " ".join(str(error).split())
    said = re.sub(r"(undefined alias|undefined tag handle) .*", r"\1", said)  # its name may be a secret that lacks quotes
    hint = "; indent with blanks" if "'\\t'" in said else ""
    return f"{shown(said)[1:-1]}{hint}" + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark else "")


def shown_at(value: object, path: str) -> str:
    """The value as a sentence quotes it: short, and masked where it may be a secret."""
    return shown(masked_at(value, path))


def plain(value: Any, path: str) -> Any:
    """A value of free form (an adapter's own option): dates as ISO 8601 text. Raises ConfigError on NaN and infinity."""
    if isinstance(value, dict):
        return {key: plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{path}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} is {value!r}; allowed: finite numbers")
    return value

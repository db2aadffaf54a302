"""Names and paths: which become columns, file names and registered models.

Each check raises ConfigError with one sentence: where, the value, what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from ..errors import ConfigError, shown
from ..tables import DERIVED_EVENT_COLUMNS, EVENTS

INPUT_COLUMNS = ("event_id", "user_id", "source", "item_id", "known_at_ms", "event_time_ms", "reason")  # arrays have these already, or ids


def check_path(path: str, value: str) -> None:
    """A folder or file as the file system can hold it."""
    long = len(value.encode()) > 4000 or any(len(part.encode()) > 255 for part in value.split("/"))
    if not value.strip() or long or any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise ConfigError(f"{path} is {shown(value)}; allowed: a path, without control characters, of parts of at most 255 bytes")


def check_run_name(path: str, value: str) -> None:
    """A name that is part of file names and of MLflow's registered models: MLflow finds it again in `models:/NAME/VERSION`.

    Raises ConfigError naming the first character that it cannot hold.
    """
    allowed = "allowed: up to 100 characters without / : \\ ? @ quotes and control characters, with '..' not first"
    if found := re.search(r"[\x00-\x1f\x7f/:?@'\"`\\]", value):
        raise ConfigError(f"{path} is {shown(value)}, which holds {found[0]!r}; {allowed}")
    if not value.strip(". ") or len(value) > 100 or value.startswith(".."):
        raise ConfigError(f"{path} is {shown(value)}; {allowed}")


FilePath = Annotated[str, check_path]
RunName = Annotated[str, check_run_name]


def check_streams(streams: Mapping[str, Iterable[str]]) -> None:
    """Names of streams and of their attributes (stream -> attributes) become columns, which Spark compares without case."""
    spelled: dict[str, str] = {}
    for name in streams:
        fits = name.isidentifier() and "__" not in name and not name.endswith("_")
        if not fits or name.lower() in ("impression", "shown", "user_id", "country"):
            raise ConfigError(
                f"streams is {shown(name)}; allowed: a name of letters, digits and single '_', "
                "not 'impression', 'shown', 'user_id' or 'country'"
            )
        one_spelling(name, spelled, "streams")
    spelled = {column: column for column in (*EVENTS.column_names, *INPUT_COLUMNS)}
    for stream, attributes in streams.items():
        for name in attributes:
            check_attribute(name, f"streams.{stream}.attributes")
            one_spelling(name, spelled, f"streams.{stream}.attributes")


def check_attribute(name: str, path: str) -> None:
    """An attribute's name is a column of `events`, part of the sequences' columns, and of the names of metrics."""
    if not re.fullmatch(r"[^\W_][\w+-]{0,127}", name) or name.endswith("__present"):
        raise ConfigError(
            f"{path} names {shown(name)}; allowed: at most 128 letters, digits, '_', '-' and '+', a letter or digit first: "
            "give the column such a name in source.options (columns: {name: `expression`})"
        )
    if name in DERIVED_EVENT_COLUMNS or name in INPUT_COLUMNS:
        raise ConfigError(f"{path} names {shown(name)}, which every event has already: call the attribute otherwise")


def one_spelling(name: str, spelled: dict[str, str], path: str) -> None:
    """Register the name; raises where it differs from a known one in case only."""
    other = spelled.setdefault(name.lower(), name)
    if other != name:
        raise ConfigError(f"{path} names {shown(name)}, but there is {shown(other)}, and Spark does not tell them apart: write one of them")

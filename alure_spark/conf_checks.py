"""Checks that hold for every section of a configuration: how large numbers may be, which names become columns, which paths can be.

Each raises ConfigError with one sentence: where, the value, what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .clock import LONGEST_DAYS
from .errors import ConfigError, shown
from .tables import DERIVED_EVENT_COLUMNS, EVENTS

PER_DAY = {"days": 1, "hours": 24, "minutes": 1440, "seconds": 86_400, "ms": 86_400_000}
LARGEST_NUMBER = 1e15
LARGEST_COUNT = 1_000_000_000  # with room below the 2^31 of Spark's INT and of the JVM's arrays
# What a machine would try to allocate, or count through, at once.
LARGEST = {
    "dimension": 65_536, "feed_forward": 1_000_000, "layers": 1_000, "heads": 65_536, "compressed": 65_536, "text_buckets": 100_000_000,
    "text_words": 1_000_000, "read_positions": 1_000_000, "ad_attention": 1_000_000, "next_items": 10_000_000, "levels": 64,
    "codes": 1_000_000, "hidden": 1_000_000, "embedding_dimensions": 1_000_000, "hash_buckets": 100_000_000, "window": 100_000_000,
    "bootstrap": 1_000_000, "compare_rounds": 1_000_000, "processes": 4096, "threads": 4096, "shuffle_partitions": 1_000_000,
    "k": 1_000_000, "k2": 1_000_000, "neighbours": 1_000_000, "cap": 10_000_000, "max_engagements_per_user": 10_000_000,
    "event_weights": 1_000_000, "account_weights": 1_000_000, "blend": 1_000_000, "blend_by_country": 1_000_000,
    "direct": 1_000_000, "mutual": 1_000_000,
}  # fmt: skip
INPUT_COLUMNS = ("event_id", "user_id", "source", "item_id", "known_at_ms", "event_time_ms", "reason")  # arrays have these already, or ids


def check_number(field: str, value: float, path: str) -> None:
    """A number that jobs can count with: finite, and no larger in size than its field (a name with its unit at the end) allows."""
    unit = field.rsplit("_", 1)[-1]
    largest: float
    if unit in ("seed", "seeds"):
        largest = 2**63 - 1
    elif unit in PER_DAY:
        largest = LONGEST_DAYS * PER_DAY[unit]
    else:
        largest = LARGEST.get(field, LARGEST_NUMBER if isinstance(value, float) else LARGEST_COUNT)
    if not abs(value) <= largest:  # NaN is not, either
        raise ConfigError(f"{path} is {shown(value)}; allowed: a finite number of at most {largest:,}")


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


def check_streams(streams: Mapping[str, Iterable[str]]) -> None:
    """Names of streams and of their attributes (stream -> attributes) become columns, which Spark tells apart without case."""
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

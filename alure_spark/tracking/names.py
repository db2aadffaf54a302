"""Names and values that MLflow takes, made of those that hold what the data holds (countries, streams). Cleaned here, nowhere else.

MLflow takes letters, digits, '_', '-', '.', ':', blanks and '/', at most 250 characters, and no path that leads elsewhere ('../x').
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

LONGEST = 250
LONGEST_PARAMETER, LONGEST_TAG = 500, 5000
LONGEST_FILE = 60  # characters of one part of a path; file systems allow 255 bytes
_REFUSED = re.compile(r"[^\w .\-:/]")


def clean(name: object) -> str:
    """The name with '_' for each character that MLflow refuses and for an empty part; at most 250 characters."""
    short = "/".join(_parts(name))
    return short if len(short) <= LONGEST else marked(short, name)


def _parts(name: object) -> list[str]:
    text = unicodedata.normalize("NFC", str(name))
    return [re.sub(r"^\.*$", lambda dots: "_" * max(1, len(dots[0])), part) for part in _REFUSED.sub("_", text).split("/")]


def clean_file(name: object) -> str:
    """The same for a file below the artifacts: parts that every file system takes, and the extension stays."""
    parts = []
    for part in _parts(str(name).replace(":", "_")):
        part = f"_{part}" if part.startswith(".") else part
        end = PurePosixPath(part).suffix
        parts.append(part if len(part) <= LONGEST_FILE else f"{part[: LONGEST_FILE - 7 - len(end[:8])]}-{_mark(part)}{end[:8]}")
    return "/".join(parts)


def marked(short: str, name: object) -> str:
    """The clean name, ending in six digits of the hash of what it was."""
    return f"{short[: LONGEST - 7].rstrip('/')}-{_mark(name)}"


def _mark(name: object) -> str:
    return hashlib.sha256(str(name).encode("utf-8", "surrogatepass")).hexdigest()[:6]


class Names:
    """The clean names of one run. A name keeps what it was given; of two that would be cleaned to one, each gets its own."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._owner: dict[str, str] = {}

    def of(self, names: Iterable[object]) -> dict[str, str]:
        """Name -> clean name, for all of them; the order of the names does not matter."""
        asked = list(dict.fromkeys(map(str, names)))
        new = [name for name in asked if name not in self._given]
        wanted = Counter(map(clean, new))
        for name in new:
            short = clean(name)
            if (short != name and wanted[short] > 1) or self._owner.get(short, name) != name:
                short = marked(short, name)
            self._given[name] = short
            self._owner[short] = name
        return {name: self._given[name] for name in asked}


def as_number(value: Any) -> float:
    """The value as a float; NaN where it is no number, infinity where no float is so large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        return math.nan


def as_text(value: Any, longest: int | None = None) -> str:
    """The value as text that can be stored, cut at so many characters."""
    return str(value).encode("utf-8", "replace").decode().replace("\0", "")[:longest]

"""Paths of a conf, whose folders may be called in any way ('shop #2 [EU] 100%'), as Spark, SQL and SQLite read them."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from urllib.parse import unquote

PATTERN_SIGNS = re.compile(r"([{}\[\]*?\\])")
SQLITE = "sqlite:///"


def is_url(path: str) -> bool:
    """Whether the path names its file system, as in s3a://bucket/lake or file:/lake; a colon further on is part of a name."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path) is not None


def as_folder(path: str) -> str:
    """A folder that is given as file:/x as a path, other places as they are; %20 is decoded where that, and nothing else, is a folder."""
    if not path.startswith("file:/"):
        return path
    folder = re.sub("^file:/+", "/", path)
    return unquote(folder) if not os.path.exists(folder) and os.path.isdir(unquote(folder)) else folder


def literal(path: str) -> str:
    """The path for Spark's readers of files, which take one for a pattern."""
    return PATTERN_SIGNS.sub(r"\\\1", path)


def delta_table(path: str) -> str:
    """The Delta table of a folder as SQL names it."""
    return f"delta.`{path.replace('`', '``')}`"


def located(path: str, root: str, file_format: str) -> str:
    """A source table as Spark reads it: below root where the path is relative.

    What exists of it on this machine is meant literally, the rest may be a pattern (part-*.json).
    """
    whole = path if path.startswith("/") or is_url(path) or not root else f"{root.rstrip('/')}/{path}"
    if file_format == "delta" or not PATTERN_SIGNS.search(whole):  # Delta takes a path as it is
        return whole
    scheme, rest = ("file:", re.sub("^/+", "/", whole.removeprefix("file:"))) if whole.startswith("file:") else ("", whole)
    rest = str(Path(rest))
    there = next((str(part) for part in (Path(rest), *Path(rest).parents) if os.path.exists(part)), "")
    return scheme + literal(there) + rest.removeprefix(there) if rest.startswith(there) else whole


def sqlite_uri(uri: str) -> str:
    """The MLflow store `sqlite:///PATH` with the path as it is written; other stores as they are.

    SQLAlchemy decodes %41 and takes what follows '?' for options. A path that was encoded for it by hand, and options (?timeout=30), stay.
    """
    path = uri.removeprefix(SQLITE)
    path, mark, options = path.rpartition("?") if re.search(r"\?\w+=[^/?]*$", path) else (path, "", "")
    if not uri.startswith(SQLITE) or not re.search(r"\?|%[0-9A-Fa-f]{2}", path):
        return uri
    decoded = Path(unquote(path))
    if "?" not in path and (decoded.is_file() or (decoded.parent.is_dir() and not Path(path).parent.is_dir())):
        return uri
    # By its long name: for the short one MLflow makes the folder of the encoded path.
    with contextlib.suppress(OSError):  # opening the store will say it better
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    return "sqlite+pysqlite:///" + path.replace("%", "%25").replace("?", "%3F") + mark + options

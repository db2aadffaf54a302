"""What a lake publishes, read without Spark and without alure_spark.lake: the Delta log is replayed commit by commit.

It is the oracle of the chaos tests: it cannot share a fault of the code under test, and it takes milliseconds. It knows what our tables
use: JSON commits, partition values, columns that came later. Deletion vectors and column mapping it refuses.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

from alure_spark.tables import TABLES

State = dict[str, tuple[str, int]]  # table -> (digest of its rows, number of rows)
_digests: dict[tuple[str, ...], tuple[str, int]] = {}  # by the names of the files, which no two writes share


class Unreadable(AssertionError):
    """A published version cannot be read: a commit or a file of it is not there."""


def head(table: Path) -> int:
    """The newest version of a table; -1 where there is no table."""
    return max((int(path.stem) for path in (table / "_delta_log").glob("*.json") if path.stem.isdigit()), default=-1)


def rows(table: Path, version: int) -> list[dict[str, Any]]:
    """The rows of a version, in no order. Raises Unreadable."""
    files, columns = _snapshot(table, version)
    found = []
    for name, partition in sorted(files.items()):
        if not (table / name).is_file():
            raise Unreadable(f"{table.name} version {version} needs the file {name}, which is not there")
        for row in pq.ParquetFile(table / name).read().to_pylist():
            found.append({column: partition[column] if column in partition else row.get(column) for column in columns})
    return found


def runs(lake: Path, status: str = "published") -> list[dict[str, Any]]:
    """The rows of `runs` with that status, oldest first; maps are dicts."""
    if head(lake / "runs") < 0:
        return []
    found = [row for row in rows(lake / "runs", head(lake / "runs")) if row["status"] == status]
    for row in found:
        row.update({name: dict(row[name] or ()) for name in ("outputs", "content_hashes")})
    return sorted(found, key=lambda row: row["finished"])


def published(lake: Path, last: int | None = None) -> dict[str, int]:
    """Table -> the newest version that a published run names; `last`: of the first so many runs only."""
    versions: dict[str, int] = {}
    for run in runs(lake)[:last]:
        for name, version in run["outputs"].items():
            versions[name] = max(version, versions.get(name, -1))
    return versions


def content(lake: Path, versions: dict[str, int]) -> State:
    """Digest and row count of these versions; run ids and clocks are left out, as in lake.content_hash. Raises Unreadable."""
    return {name: _content(lake / name, version) for name, version in sorted(versions.items())}


def models(database: Path) -> dict[str, str]:
    """Of the MLflow store: registered model -> the digest that its alias `champion` names, and all digests there are."""
    if not database.is_file():
        return {}
    with sqlite3.connect(database) as store:
        digests = {
            (name, version): value
            for name, version, value in store.execute("SELECT name, version, value FROM model_version_tags WHERE key = 'alure.digest'")
        }
        aliases = list(store.execute("SELECT name, version FROM registered_model_aliases WHERE alias = 'champion'"))
    found = {f"champion of {name}": digests[name, version] for name, version in aliases}
    return found | {f"versions of {name}": " ".join(sorted({d for (n, _), d in digests.items() if n == name})) for name, _ in digests}


def _content(table: Path, version: int) -> tuple[str, int]:
    files, columns = _snapshot(table, version)
    missing = [name for name in files if not (table / name).is_file()]
    if missing:
        raise Unreadable(f"{table.name} version {version} needs {len(missing)} files that are not there, e.g. {missing[0]}")
    key = (table.name, ",".join(columns), *sorted(files))
    if key not in _digests:
        kept = sorted(set(columns) - set(TABLES[table.name].not_content))
        hashes = sorted(hashlib.sha256(repr([row[name] for name in kept]).encode()).digest() for row in rows(table, version))
        _digests[key] = hashlib.sha256(b"".join(hashes)).hexdigest()[:16], len(hashes)
    return _digests[key]


def _snapshot(table: Path, version: int) -> tuple[dict[str, dict[str, str | None]], list[str]]:
    """(file -> its partition values, column names) of a version."""
    files: dict[str, dict[str, str | None]] = {}
    columns: list[str] = []
    for number in range(version + 1):
        for action in _actions(table, number):
            if "metaData" in action:
                columns = [field["name"] for field in json.loads(action["metaData"]["schemaString"])["fields"]]
            elif "add" in action:
                assert action["add"].get("deletionVector") is None, "this reader knows no deletion vectors"
                files[unquote(action["add"]["path"])] = action["add"]["partitionValues"]
            elif "remove" in action:
                files.pop(unquote(action["remove"]["path"]), None)
    return files, columns


def _actions(table: Path, version: int) -> Iterator[dict[str, Any]]:
    path = table / "_delta_log" / f"{version:020d}.json"
    if not path.is_file():
        raise Unreadable(f"{table.name} has no commit {version}")
    yield from (json.loads(line) for line in path.read_text().splitlines() if line)

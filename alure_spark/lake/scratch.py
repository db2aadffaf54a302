"""Folders of lake.scratch, which jobs share with their tasks while they run: for their owner only, and deleted afterwards.

lake.scratch may be shared with anything. What a lake puts there lies in one folder of its own (`workspace`), which a file marks as
such; nothing beside it is ever deleted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..config import LakeConfig
from ..errors import ConfigError

logger = logging.getLogger(__name__)
MARKER = ".alure-scratch"
MARK = "alure_spark: what lies in this folder is deleted by jobs and by forget_users"
LAKE = "lake: "  # the next line of the marker says whose folder it is
# What earlier releases left directly in lake.scratch when they were killed.
EARLIER = re.compile(
    r".+-v\d+-[0-9a-f]{16}(-\w+)?(\.refit)?(\.checkpoint|\.model|\.part)?|graph-[0-9a-f]{16}|(search|road)-(exact|probed)"
    r"|(importance|policies|sequences|threshold)-.+|.+_semantic_ids-[0-9a-f]{16}"
)


def workspace(config: LakeConfig) -> str:
    """The lake's own folder below lake.scratch, made and marked where it is missing, for its owner only.

    Raises ConfigError on a path that is not one of the file system's, that cannot be made, or where something else lies.
    """
    path = _workspace(config, _lake(config))
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.is_symlink() or (not _is_marked(path) and any(path.iterdir())):
            raise ConfigError(f"{path} is not a folder that a job made: move it away, or choose another lake.scratch")
        _chmod(path, 0o700)
        if _marked_lake(path) != _lake(config):
            (path / MARKER).write_text(f"{MARK}\n{LAKE}{_lake(config)}\n")
            _chmod(path / MARKER, 0o600)
    except OSError as error:
        raise ConfigError(f"lake.scratch is {config.scratch!r}, and nothing can be written there ({error}): choose another one") from error
    return str(path)


def erase_workspace(config: LakeConfig) -> None:
    """Delete all that jobs on this lake left below lake.scratch. Raises OSError where something cannot be deleted."""
    if resolve(config.scratch) is None:  # no job can have written there
        return
    failures = []
    for lake in dict.fromkeys((_lake(config), _as_spelled(config))):  # earlier releases took the spelling
        try:
            _erase(_workspace(config, lake))
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _erase(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        return
    if not _is_marked(path):
        if any(path.iterdir()):
            raise OSError(f"{path} has lost its mark {MARKER}: look at it and delete it by hand")
        return
    for each in path.iterdir():  # the mark goes last: what a failure leaves is still known as ours
        if each.name != MARKER:
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    (path / MARKER).unlink()
    path.rmdir()


def left_by_earlier_releases(config: LakeConfig) -> list[str]:
    """Names in lake.scratch that look like what earlier releases left there: unmarked, so a person has to look and delete."""
    folder = resolve(config.scratch)
    try:
        return sorted(path.name for path in folder.iterdir() if EARLIER.fullmatch(path.name)) if folder and folder.is_dir() else []
    except OSError:  # it cannot be listed, so no job can have listed it either
        return []


def left_by_lakes_that_are_gone(config: LakeConfig) -> list[str]:
    """Workspaces in lake.scratch whose lake lies no longer where it did, or is not known: this lake's, perhaps, before it was moved."""
    folder, own = resolve(config.scratch), {_workspace(config, lake).name for lake in (_lake(config), _as_spelled(config))}
    names = []
    try:
        marked = sorted(folder.glob("alure-*")) if folder else []
    except OSError:  # as above
        return []
    for path in marked:
        try:
            lake = _marked_lake(path) or ""
            gone = _is_marked(path) and (not lake or (lake.startswith("/") and not os.path.isdir(lake)))
        except OSError:  # another user's: not this lake's, or whoever erases could not look into it either
            continue
        if gone and path.name not in own:
            names.append(path.name)
    return names


@contextmanager
def scratch_folder(scratch: str, name: str) -> Iterator[str]:
    """An empty folder below scratch (a `workspace`), for its owner only: yields its path, and deletes it however the block ends.

    Driver and executors must both reach it. What a killed job left under the same name is replaced, so two jobs at once need two
    names. Raises ConfigError on a path that is not one of the file system's.
    """
    path = _below(scratch, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    _chmod(path, 0o700)
    try:
        yield str(path)
    finally:
        # Tasks of a failed job may still be writing; that must not hide why it failed.
        _delete(path)


@contextmanager
def resumable_folder(scratch: str, name: str, content: object) -> Iterator[str]:
    """A folder below scratch that outlives a failure: the next attempt at the same content (its repr) finds what is there.

    For its owner only; deleted when the block ends well. Folders of the same name with other content are deleted at the start. Driver
    and executors must both reach it. Raises ConfigError on a path that is not one of the file system's.
    """
    path = _below(scratch, f"{name}-{hashlib.sha256(repr(content).encode()).hexdigest()[:16]}")
    path.mkdir(parents=True, exist_ok=True)
    _chmod(path, 0o700)
    same_name = re.compile(re.escape(path.name[:-17]) + "-[0-9a-f]{16}")
    for other in path.parent.iterdir():
        if other != path and same_name.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)
    yield str(path)
    _delete(path)


def make_private(path: str | Path) -> None:
    """For the owner only: folders 0700 and files 0600, all the way down. For what other code wrote with the modes it likes."""
    top = Path(path)
    for each in (top, *top.rglob("*")):
        if not each.is_symlink():
            _chmod(each, 0o700 if each.is_dir() else 0o600)


def _chmod(path: Path, mode: int) -> None:
    """Where the file system keeps modes; mounts of object stores refuse to."""
    try:
        path.chmod(mode)
    except FileNotFoundError:  # a task's unfinished file
        return
    except OSError as error:
        logger.warning("%s keeps no modes (%s): who may read it is up to the mount", path, error.strerror)


def resolve(scratch: str) -> Path | None:
    """The absolute path that lake.scratch names (a path, or file:x, file:/x, file:///x); None: it is not one of the file system's."""
    scheme, rest = re.fullmatch(r"(?s)(?:([A-Za-z][A-Za-z0-9+.-]*):)?(.*)", scratch).groups()  # type: ignore[union-attr]
    if scheme and scheme.lower() != "file":
        return None
    if scheme and rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            return None
        rest = f"/{path}"
    return Path(os.path.abspath(rest)) if rest.strip() else None


def _below(scratch: str, name: str) -> Path:
    folder = resolve(scratch)
    if folder is None:
        raise ConfigError(
            f"lake.scratch is {scratch!r}; allowed: a path that driver and executors both reach, such as ./out/scratch, a shared mount, "
            "/dbfs/... or /Volumes/..."
        )
    return folder / name.replace("/", "_")  # a name of a conf must not lead out of the folder


def _workspace(config: LakeConfig, lake: str) -> Path:
    return _below(config.scratch, f"alure-{hashlib.sha256(lake.encode()).hexdigest()[:16]}")


def _as_spelled(config: LakeConfig) -> str:
    return str(resolve(config.root) or config.root.rstrip("/")) if config.is_folder else config.root


def _lake(config: LakeConfig) -> str:
    """One name for all spellings of lake.root: links are followed, and names of a catalog are of any case."""
    spelled = _as_spelled(config)
    if not config.is_folder:
        return spelled.replace("`", "").casefold()
    return os.path.realpath(spelled) if spelled.startswith("/") else spelled


def _marked_lake(path: Path) -> str | None:
    """The lake whose workspace it is; None where it is not marked, or an earlier release did not say."""
    if not _is_marked(path):
        return None
    lines = (path / MARKER).read_text(errors="replace").splitlines()
    return next((line.removeprefix(LAKE) for line in lines if line.startswith(LAKE)), None)


def _is_marked(path: Path) -> bool:
    marker = path / MARKER
    return marker.is_file() and not marker.is_symlink() and marker.read_text(errors="replace").startswith(MARK)


def _delete(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        logger.warning("could not delete all of %s: it holds what is known of users, delete it by hand", path)

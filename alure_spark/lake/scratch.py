"""Folders of lake.scratch, which jobs share with their tasks while they run: for their owner only, and deleted afterwards."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError

logger = logging.getLogger(__name__)


@contextmanager
def scratch_folder(scratch: str, name: str) -> Iterator[str]:
    """An empty folder below lake.scratch, for its owner only: yields its path, and deletes it however the block ends.

    Driver and executors must both reach it. What a killed job left under the same name is replaced, so two jobs at once need two
    names. Raises ConfigError on a path that is not one of the file system's.
    """
    path = _local(scratch, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    os.chmod(path, 0o700)
    try:
        yield path
    finally:
        # Tasks of a failed job may still be writing; that must not hide why it failed.
        shutil.rmtree(path, ignore_errors=True)
        if os.path.exists(path):
            logger.warning("could not delete all of %s: it holds what is known of users, delete it by hand", path)


@contextmanager
def resumable_folder(scratch: str, name: str, content: object) -> Iterator[str]:
    """A folder below lake.scratch that outlives a failure: the next attempt at the same content (its repr) finds what is there.

    For its owner only; deleted when the block ends well. Folders of the same name with other content are deleted at the start. Driver
    and executors must both reach it. Raises ConfigError on a path that is not one of the file system's.
    """
    path = Path(_local(scratch, f"{name}-{hashlib.sha256(repr(content).encode()).hexdigest()[:16]}"))
    for other in path.parent.glob(f"{name}-*"):
        if other != path:
            shutil.rmtree(other, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    yield str(path)
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        logger.warning("could not delete all of %s: it holds what is known of users, delete it by hand", path)


def _local(folder: str, name: str) -> str:
    scheme, colon, rest = folder.partition(":")
    if colon and scheme != "file":
        raise ConfigError(
            f"lake.scratch is {folder!r}; allowed: a path that driver and executors both reach, such as ./out/scratch, a shared mount, "
            "/dbfs/... or /Volumes/..."
        )
    return os.path.abspath(os.path.join(rest if colon else folder, name))

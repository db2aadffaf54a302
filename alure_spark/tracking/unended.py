"""Runs that MLflow takes for running although they are not: their process was killed, or the store was away when they ended.

While a run is open, a small file below tracking.offline_root says who writes it; the next run that finds its process dead ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

import psutil

FILE = "unended.json"
CLOCK_SLACK_S = 5  # a process seems to begin elsewhere when the clock is set


def note(root: str, run_id: str, store: str, status: str = "") -> None:
    """Say that the run of this process is open (status '') or how it ended. Without the file nothing is lost but this."""
    content = {"store": store, "status": status, "host": socket.gethostname(), "pid": os.getpid(), "since": _since(os.getpid())}
    with contextlib.suppress(OSError):
        path = Path(root) / run_id / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def forget(root: str, run_id: str) -> None:
    """MLflow knows that the run has ended."""
    with contextlib.suppress(OSError):
        (Path(root) / run_id / FILE).unlink(missing_ok=True)
        (Path(root) / run_id).rmdir()  # unless figures lie there


def found(root: str, store: str) -> dict[str, str]:
    """Run id -> status, of the runs of that store that have ended without MLflow knowing; FAILED where the process died."""
    runs = {}
    for path in Path(root).glob(f"*/{FILE}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a file that somebody else wrote
            said = json.loads(path.read_text())
            dead = said["host"] == socket.gethostname() and not _lives(int(said["pid"]), float(said["since"]))
            if said["store"] == store and (said["status"] or dead):
                runs[path.parent.name] = str(said["status"] or "FAILED")
    return runs


def _since(pid: int) -> float:
    return psutil.Process(pid).create_time()


def _lives(pid: int, since: float) -> bool:
    try:
        return abs(_since(pid) - since) <= CLOCK_SLACK_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True

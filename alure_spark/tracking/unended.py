"""Runs that MLflow takes for running although they are not: their process was killed, or the store was away when they ended.

While a run is open, a small file below tracking.offline_root says who writes it; the next run that finds its process dead ends it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from ..processes import identity, is_alive, this_process

FILE = "unended.json"


def note(root: str, run_id: str, store: str, status: str = "") -> None:
    """Say that the run of this process is open (status '') or how it ended. Without the file nothing is lost but this."""
    content = {"store": store, "status": status, "process": this_process(), "identity": identity()}
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
            if said["store"] == store and (said["status"] or is_alive(*_writer(said)) is False):
                runs[path.parent.name] = str(said["status"] or "FAILED")
    return runs


def _writer(said: Mapping[str, object]) -> tuple[str, Mapping[str, str]]:
    """The process and what it is known again by; earlier releases wrote host, id and second of the start."""
    if "process" in said:
        return str(said["process"]), dict(said["identity"])  # type: ignore[call-overload]
    return f"{said['host']} {said['pid']} {float(str(said['since'])):.0f}", {}

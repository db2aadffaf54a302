"""Processes that say who they are (writers of a lake, open runs of MLflow), and whether they still live.

A process is known again by the boot of its machine, its pid namespace, its id and its start ticks: none of them moves when the clock
is set, and containers that share a host name do not share a namespace. Where there is no /proc (macOS), and for rows of earlier
releases, the host name, the id and the second of the start must do.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil

CLOCK_SLACK_S = 5  # a process seems to begin elsewhere when the clock is set
BOOT, NAMESPACE, TICKS = "boot_id", "pid_namespace", "start_ticks"


def this_process() -> str:
    """Host, process id, and the second since when it runs: what people, and earlier releases, know it by."""
    return f"{socket.gethostname()} {os.getpid()} {_began(os.getpid()):.0f}"


def identity() -> dict[str, str]:
    """What this process is known again by; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {BOOT: boot, NAMESPACE: os.readlink("/proc/self/ns/pid"), TICKS: _state_and_ticks("self")[1]}
    except OSError:
        return {}


def is_this(process: str, its: Mapping[str, str]) -> bool:
    """Whether what a process said of itself (this_process, identity) names this very one."""
    mine = identity()
    if not mine or BOOT not in its:
        return process == this_process()
    return process.split(" ")[1] == str(os.getpid()) and all(its.get(key) == value for key, value in mine.items())


def is_alive(process: str, its: Mapping[str, str]) -> bool | None:
    """Whether the process is still there; None where that cannot be seen from here."""
    host, pid, *since = process.split(" ")
    if BOOT in its:
        mine = identity()
        if any(mine.get(key) != its.get(key) for key in (BOOT, NAMESPACE)):
            return None
        return _runs(int(pid), its.get(TICKS, ""))
    if host != socket.gethostname():
        return None
    alive = _runs_since(int(pid), *map(int, since))
    return None if alive and not since else alive  # ids are given again: without the second of the start its lease counts


def _runs(pid: int, ticks: str) -> bool:
    """Of this boot and namespace: whether the process is there, is the one that began at these ticks, and is no zombie."""
    signalled = _answers(pid)
    # A /proc of another namespace than ours (unshare without a mount) numbers the processes in its own way.
    if signalled is False or os.readlink("/proc/self") != str(os.getpid()):
        return signalled is not False
    try:
        state, began = _state_and_ticks(str(pid))
    except OSError:  # hidden (another user's), or ended since it answered: the next look will tell
        return True
    return state not in "ZX" and began == ticks


def _state_and_ticks(pid: str) -> tuple[str, str]:
    """Fields 3 and 22 of /proc/PID/stat; the name before them may hold blanks and brackets. Raises OSError."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], fields[19]


@functools.cache
def _began(pid: int) -> float:
    """The first answer stays, so that a process always calls itself the same."""
    return psutil.Process(pid).create_time()


def _answers(pid: int) -> bool | None:
    """Whether the id can be signalled; None: it is there, but another user's, which the machine may not show."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return None
    return True


def _runs_since(pid: int, since_s: int | None = None) -> bool:
    """Whether a process of this machine is there, and is the one that began then; rows of older releases do not say when."""
    answers = _answers(pid)
    if answers is False:
        return False
    if not psutil.pid_exists(pid):  # and not hidden: the id of a thread, which can be signalled too
        return answers is None
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return since_s is None or abs(process.create_time() - since_s) <= CLOCK_SLACK_S
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return False

"""Who is writing to a lake: a process is known again by its machine, its id, and when it began."""

from __future__ import annotations

import functools
import os
import socket

import psutil

CLOCK_SLACK_S = 5  # a process seems to begin elsewhere when the clock is set


def this_process() -> str:
    """Host, process id, and the second since when it runs: ids are given again, in a container at every start."""
    return f"{socket.gethostname()} {os.getpid()} {_began(os.getpid()):.0f}"


@functools.cache
def _began(pid: int) -> float:
    """The first answer stays, so that a process always calls itself the same."""
    return psutil.Process(pid).create_time()


def is_alive(pid: int, since_s: int | None = None) -> bool:
    """Whether a process of this machine is there, and is the one that began then; rows of older versions do not say when."""
    hidden = False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, which the machine may not show
        hidden = True
    if not psutil.pid_exists(pid):  # and not hidden: the id of a thread, which can be signalled too
        return hidden
    try:
        return since_s is None or abs(psutil.Process(pid).create_time() - since_s) <= CLOCK_SLACK_S
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return False

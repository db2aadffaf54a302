"""The files that still hold rows of forgotten users: which are erased with a run, and which stay and until when."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from ..clock import HOUR_MS, format_time
from ..config import LakeConfig
from ..lake import OLD_FILES, REMOVED_AT, JobRun, Lake
from ..lake.scratch import erase_workspace, left_by_earlier_releases, left_by_lakes_that_are_gone
from ..tables import TABLES


def erase(lake: Lake, config: LakeConfig) -> None:
    """The files of old versions, also of tables that a killed job never published, and what killed jobs left in lake.scratch.

    What fails does not stop the rest; the first failure is raised at the end.
    """
    failures: list[Exception] = []

    def attempt(action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            failures.append(error)

    def vacuum(name: str) -> None:
        if lake.is_ours(name):
            lake.vacuum(name, config.vacuum_hours)

    for name, of in TABLES.items():
        if of.users:
            attempt(partial(vacuum, name))
    attempt(partial(lake.vacuum_runs, config.vacuum_hours))
    attempt(partial(erase_workspace, config))
    if failures:
        raise failures[0]


def old_versions(run: JobRun, now_ms: int, hours: float) -> str:
    """What is said of the files that the vacuum of this run leaves; the facts of the run tell later ones from when on they may go."""
    if not hours:
        return "remains: no earlier version of the tables"
    until = format_time(now_ms + math.ceil(hours) * HOUR_MS)
    run.facts |= {REMOVED_AT: format_time(now_ms), OLD_FILES: until}
    return (
        f"remains: the rows as they were can be read back for {hours:g} hours (lake.vacuum_hours), and their files stay until "
        f"jobs/forget_users.py --vacuum runs after {until[:16]} UTC (with --set lake.vacuum_hours=0 at once)"
    )


def unmarked(config: LakeConfig) -> list[str]:
    """Sentences on what lies in lake.scratch and may be of this lake, but is not marked as its own."""
    found = {
        "that an earlier release may have left": left_by_earlier_releases(config),
        "of lakes that are not there any more, of this one perhaps before it was moved": left_by_lakes_that_are_gone(config),
    }
    return [
        f"remains: {len(names)} files and folders in {config.scratch} {whose} ({', '.join(names[:5])}): look at them, delete them by hand"
        for whose, names in found.items()
        if names
    ]

"""Lets old rows of a table go, and what later runs must know of it."""

from __future__ import annotations

import math
from datetime import timedelta

from pyspark.sql import functions as F

from ..clock import DAY_MS, format_time
from ..tables import EVENTS, LATEST_ROW_TABLES
from .columns import latest_rows, timestamp
from .job_run import JobRun


def delete_old_rows(run: JobRun, name: str, days: float, now_ms: int) -> int | None:
    """Deletes the rows that are older than so many days before the table's newest day up to now; how many, None where none is old.

    Of LATEST_ROW_TABLES each user's latest row before that stays, however old. The facts of the run name the first moment of which
    `name` is still complete.
    """
    rows, of_events = run.read(name), name == EVENTS.name
    past = rows.where(F.col("known_date" if of_events else "as_of") <= timestamp(now_ms))
    newest = past.agg(F.max("known_date") if of_events else F.unix_millis(F.max("as_of"))).collect()[0][0]
    if newest is None:
        return None
    kept_from = newest - timedelta(days=math.ceil(days)) if of_events else format_time(newest - round(days * DAY_MS))
    scope = f"known_date < DATE'{kept_from}'" if of_events else f"as_of < TIMESTAMP '{kept_from}'"
    old = rows.where(scope)
    if not (count := old.count()):
        return None
    kept = latest_rows(old) if name in LATEST_ROW_TABLES else old.limit(0)
    deleted = count - run.write(name, kept, scope)
    if of_events or name in LATEST_ROW_TABLES:  # what was made of them, or the rows of an earlier as_of, is no longer complete
        run.facts[f"{name}_kept_from"] = f"{kept_from}Z"
    return deleted

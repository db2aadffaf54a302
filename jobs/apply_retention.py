"""Lets old rows go: of each table in lake.keep_days, what is older than so many days before its newest day up to today.

Of user_sequences and user_embeddings each user's latest row before that stays, however old: readers take it. Events that went
are in no later rebuild. The files are erased by lake.vacuum_hours.
"""

from __future__ import annotations

import math
import time
from datetime import timedelta

from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS, format_time
from alure_spark.lake import JobRun, latest_rows, timestamp
from alure_spark.running import Context, Job, Report
from alure_spark.tables import EVENTS, LATEST_ROW_TABLES


def retain(context: Context, run: JobRun) -> Report:
    metrics: dict[str, float | None] = {}
    today = timestamp(int(time.time() * 1000))  # a mistyped as_of of the year 2107 must not let all other days go
    for name, days in sorted(context.config.lake.keep_days.items()):
        if name not in context.lake.published_versions():
            continue
        rows, of_events = run.read(name), name == EVENTS.name
        past = rows.where(F.col("known_date" if of_events else "as_of") <= today)
        newest = past.agg(F.max("known_date") if of_events else F.unix_millis(F.max("as_of"))).collect()[0][0]
        if newest is None:
            continue
        kept_from = newest - timedelta(days=math.ceil(days)) if of_events else format_time(newest - round(days * DAY_MS))
        scope = f"known_date < DATE'{kept_from}'" if of_events else f"as_of < TIMESTAMP '{kept_from}'"
        old = rows.where(scope)
        if not (count := old.count()):
            continue
        kept = latest_rows(old) if name in LATEST_ROW_TABLES else old.limit(0)
        metrics[f"deleted.{name}"] = count - run.write(name, kept, scope)
        if of_events or name in LATEST_ROW_TABLES:  # what was made of them, or the rows of an earlier as_of, is no longer complete
            run.facts[f"{name}_kept_from"] = f"{kept_from}Z"
    said = ", ".join(f"{key.removeprefix('deleted.')} {value:,.0f}" for key, value in metrics.items()) or "none"
    return Report(metrics, texts={"retention.txt": f"rows let go: {said}"})


def vacuum(context: Context) -> None:
    """Erase the files of old versions, once the run is published; also of a table of which nothing was old."""
    for name in sorted(context.config.lake.keep_days):
        if name in context.lake.published_versions():
            context.lake.vacuum(name, context.config.lake.vacuum_hours)


JOB = Job(
    "apply_retention",
    "let rows go that are older than lake.keep_days",
    (),
    (),
    lambda config: "true",
    retain,
    after=vacuum,
)

if __name__ == "__main__":
    JOB.main()

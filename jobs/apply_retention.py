"""Lets old rows go: of each table in lake.keep_days, what is older than so many days before its newest day up to today.

Of user_sequences and user_embeddings each user's latest row before that stays, however old: readers take it. Events that went
are in no later rebuild. The files are erased by lake.vacuum_hours.
"""

from __future__ import annotations

import time

from alure_spark.lake import JobRun
from alure_spark.lake.retention import delete_old_rows
from alure_spark.running import Context, Job, Report


def retain(context: Context, run: JobRun) -> Report:
    metrics: dict[str, float | None] = {}
    now_ms = int(time.time() * 1000)  # a mistyped as_of of the year 2107 must not let all other days go
    for name, days in sorted(context.config.lake.keep_days.items()):
        if name in context.lake.published_versions():
            deleted = delete_old_rows(run, name, days, now_ms)
            if deleted is not None:
                metrics[f"deleted.{name}"] = deleted
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

"""Which impressions a run counts: those that entered since the last as_of, and those of earlier as_ofs whose events came in since.

Enters: a run of the lake, what its published runs say (`runs`, read once) and the as_ofs that `dwell_statistics` hold. Leaves: `Days`, and
the statistics of these days. What is stale is decided by pure functions of what the runs said.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import DAY_MS, FIRST_AS_OF_MS, LAST_AS_OF_MS, format_time, parse_time
from ..config import DynamixConfig
from ..errors import LakeError
from ..lake import JobRun, as_of_scope, timestamp
from ..lake.arrivals import BRING_EVENTS, came_in
from .statistics import new_statistics

logger = logging.getLogger(__name__)
NEVER_MS = FIRST_AS_OF_MS
History = Mapping[int, int | None]  # as_of -> from when on its impressions entered, epoch ms; None: all that there ever were


class Days(NamedTuple):
    """The as_ofs to count for: all epoch ms."""

    since: int | None  # from when on impressions enter; None: all that there ever were
    again: tuple[int, ...]  # as_ofs before this one that are counted once more, rising
    first: int  # from this as_of on, the history lacks none of today's events
    why: str  # a sentence; '' where no day is counted again


class Count(NamedTuple):
    """What a run of correlate_dwell says of itself; texts of time as it wrote them, None where an earlier release did not."""

    scope: str
    version: int  # of `events`
    statistics_from: str | None
    events_from: str | None
    counted_from: str | None
    counted_with: str | None


class Addition(NamedTuple):
    """A run that brought events."""

    version: int  # of `events`, that it wrote
    known_from: str | None  # None: the whole log


class Said(NamedTuple):
    """What the published runs of a lake say of counting, and of events that came and went."""

    counts: Sequence[Count]  # by version of events, then by start
    additions: Sequence[Addition]
    kept_from: int  # before when apply_retention let events go, epoch ms; NEVER_MS where it did not


def days_to_count(run: JobRun, dynamix: DynamixConfig, as_of_ms: int) -> Days:
    """This as_of goes on from the last one before it, or, where events of earlier days came in since, these days are counted again.

    Raises LakeError where a later as_of holds the impressions of this one already.
    """
    if "dwell_statistics" not in run.lake.published_versions():
        return Days(None, (), as_of_ms, "")
    days = (
        run.read("dwell_statistics").groupBy(F.unix_millis("as_of").alias("day")).agg(F.min(F.unix_millis("entered_from")).alias("begin"))
    )
    begins = {row["day"]: row["begin"] for row in days.collect()}
    said = what_runs_say(run.lake.runs())
    known: dict[int, int | None] = {}
    for day in sorted({*begins, *_counted_for(said)}):  # a day without an impression has no rows; it began where the one before ended
        known[day] = begins.get(day, max(known, default=None))
    over = [day for day, begin in known.items() if day > as_of_ms and (begin is None or begin < as_of_ms)]
    if over and as_of_ms not in known:
        raise LakeError(
            f"dwell_statistics of {format_time(min(over))} already hold the impressions before {format_time(as_of_ms)}: run as_ofs in order"
        )
    earlier = sorted(day for day in known if day < as_of_ms)
    history = {day: known[day] for day in earlier if not dynamix.history_days or day > as_of_ms - round(dynamix.history_days * DAY_MS)}
    first = min(history, default=as_of_ms)
    stale, why = stale_as_of(history, said, {*known, as_of_ms}, first_event_day(run), dynamix) if history else (None, "")
    if stale is None:
        return Days(earlier[-1] if earlier else None, (), first, "")
    again = tuple(day for day in history if day >= stale)
    sentence = f"{why} dwell_statistics of {format_time(stale)} were counted: as_ofs counted again: {len(again)}"
    more = f"; their segments stay: run correlate_dwell for {format_time(stale)} and later as_ofs to name them again"
    return Days(history[stale], again, first, f"{sentence}{more}")


def what_runs_say(runs: DataFrame) -> Said:
    """One pass over the table `runs`; collects a row per published run that counted, brought events or let some go.

    kept_from is LAST_AS_OF_MS where a run of an earlier release let events go and did not say which.
    """
    jobs = (*BRING_EVENTS, "apply_retention", "correlate_dwell")
    facts = ("statistics_from", "events_from", "counted_from", "counted_with", "known_from", "events_kept_from")
    published = runs.where("status = 'published'").where(F.col("job").isin(list(jobs)))
    rows = published.select(
        "job", "scope", "started", F.col("inputs")["events"].alias("read"), F.col("outputs")["events"].alias("written"),
        *(F.col("facts")[name].alias(name) for name in facts),
    ).orderBy("read", "started").collect()  # fmt: skip
    counts = [Count(row["scope"], row["read"], *(row[name] for name in facts[:4])) for row in rows if row["job"] == "correlate_dwell"]
    wrote = [row for row in rows if row["written"] is not None]
    additions = [Addition(row["written"], row["known_from"]) for row in wrote if row["job"] in BRING_EVENTS]
    gone = [row["events_kept_from"] for row in wrote if row["job"] == "apply_retention"]
    return Said(counts, additions, max((LAST_AS_OF_MS if one is None else parse_time(one) for one in gone), default=NEVER_MS))


def stale_as_of(
    history: History, said: Said, run_for: Collection[int], first_event_ms: int, dynamix: DynamixConfig
) -> tuple[int | None, str]:
    """The first of these as_ofs (rising) whose statistics lack events that came in since, or were counted under other settings; and which
    events or settings these are, as the begin of a sentence. None where there is none.

    run_for: the as_ofs that a run counted for, and today's; first_event_ms: `first_event_day`. Events that apply_retention let go, or that
    a later load no longer brought, cannot be counted again: as_ofs that were counted from any of them stay as they are.
    """
    looked_at = _looked_at(history, said.counts, run_for)
    reach = dynamix.window_ms + dynamix.buffer_ms
    now = settings_text(dynamix)
    for day, begin in history.items():
        other = looked_at.settings.get(day, now) != now
        # All that it was counted from must still be there: a log may begin later than it did, too.
        whole = begin is not None and begin - reach >= max(said.kept_from, first_event_ms + DAY_MS)
        if not whole and (said.kept_from > NEVER_MS or day not in looked_at.oldest or first_event_ms > looked_at.oldest[day]):
            if other:
                logger.warning(
                    "dwell_statistics of %s were counted under other settings of dynamix, and not all of their events are there any "
                    "more: their sums stay, and are added to those of today's settings", format_time(day),
                )  # fmt: skip
            continue
        if other:
            return day, "dynamix had other settings when"
        for addition in said.additions:
            if addition.version > looked_at.version[day] and (what := came_in(addition.known_from, day)):
                return day, f"{what} came in after"
    return None, ""


class _LookedAt(NamedTuple):
    """By as_of: what it was counted from last."""

    version: dict[int, int]  # of `events`; -1 where no run looked at it
    oldest: dict[int, int]  # the first event's day then, epoch ms
    settings: dict[int, str]  # settings_text of then


def _looked_at(history: History, counts: Sequence[Count], run_for: Collection[int]) -> _LookedAt:
    scopes = {as_of_scope(day): day for day in run_for}
    found = _LookedAt(dict.fromkeys(history, -1), {}, {})
    for one in counts:
        if (end := scopes.get(one.scope)) is None:
            continue
        first = parse_time(one.statistics_from) if one.statistics_from else end  # of an earlier release: its own as_of only
        days = [day for day in history if first <= day <= end]
        found.version.update({day: max(one.version, found.version[day]) for day in days})
        if one.counted_with is not None and one.counted_from is not None:
            counted_from = parse_time(one.counted_from)
            found.settings.update({day: one.counted_with for day in history if counted_from <= day <= end})
        if one.events_from is not None:
            found.oldest.update(dict.fromkeys(days, parse_time(one.events_from)))
    return found


def settings_text(dynamix: DynamixConfig) -> str:
    """The settings that decide what is counted, as JSON."""
    names = ("impression_source", "conversion_sources", "window_seconds", "buffer_seconds", "dwell_min_ms", "dwell_max_ms", "day_windows")
    return json.dumps({name: getattr(dynamix, name) for name in names})


def _counted_for(said: Said) -> set[int]:
    """The as_ofs, epoch ms, that a published run counted for."""
    return {parse_time(scope.split("'")[1]) for scope in {one.scope for one in said.counts}}


def first_event_day(run: JobRun) -> int:
    """The first day of which there are events, epoch ms; LAST_AS_OF_MS without one."""
    first = run.read("events").agg(F.min("known_date")).collect()[0][0]
    return LAST_AS_OF_MS if first is None else parse_time(str(first))


def write_statistics(run: JobRun, dynamix: DynamixConfig, as_of_ms: int, days: Days) -> DataFrame:
    """Writes the sums of the days; all of `dwell_statistics` up to as_of, within dynamix.history_days."""
    added = new_statistics(run.read("events"), dynamix, days.since, as_of_ms, days.again)
    run.write("dwell_statistics", added, " OR ".join(as_of_scope(day) for day in (*days.again, as_of_ms)))
    run.facts |= {"statistics_from": format_time(days.first), "events_from": format_time(first_event_day(run))}
    run.facts |= {"counted_from": format_time(min((*days.again, as_of_ms))), "counted_with": settings_text(dynamix)}
    written = run.written("dwell_statistics").where(F.col("as_of") <= timestamp(as_of_ms))
    if dynamix.history_days:
        written = written.where(F.col("as_of") > timestamp(as_of_ms - round(dynamix.history_days * DAY_MS)))
    return written

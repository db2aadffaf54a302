"""events -> dwell_statistics, dwell_correlations, user_segments at one as_of: who is active, and for how long that holds (DynamiX)."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS, FIRST_AS_OF_MS, LAST_AS_OF_MS, format_time, parse_time
from alure_spark.config import ALL_SURFACES, DynamixConfig
from alure_spark.dynamix import segments as segment
from alure_spark.dynamix.statistics import SUMS, labelled_dwell, merged, new_statistics
from alure_spark.errors import LakeError
from alure_spark.lake import JobRun, as_of_scope, timestamp
from alure_spark.plots import curves, histogram
from alure_spark.running import Context, Job, Report

logger = logging.getLogger(__name__)
DRAWN_USERS = 2000  # whose log dwell is drawn
BINS_PER_LOG = 4
NEVER_MS = FIRST_AS_OF_MS


def correlate(context: Context, run: JobRun) -> Report:
    dynamix, as_of = context.config.dynamix, context.config.time.as_of_ms
    scope = as_of_scope(as_of)
    days = _days(context, run)
    added = new_statistics(run.read("events"), dynamix, days.since, as_of, days.again)
    run.write("dwell_statistics", added, " OR ".join(as_of_scope(day) for day in (*days.again, as_of)))
    run.facts |= {"statistics_from": format_time(days.first), "events_from": format_time(_first_day(run))}
    run.facts |= {"counted_from": format_time(min((*days.again, as_of))), "counted_with": _counting(dynamix)}
    written = context.lake.read("dwell_statistics", run.outputs["dwell_statistics"]).where(F.col("as_of") <= timestamp(as_of))
    if dynamix.history_days:
        written = written.where(F.col("as_of") > timestamp(as_of - round(dynamix.history_days * DAY_MS)))
    sums = merged(written).persist()
    common = segment.populations(sums) if dynamix.shrinkage else {}
    correlated = segment.correlations(sums, common).withColumn("as_of", timestamp(as_of)).persist()
    run.write("dwell_correlations", correlated.drop("utc_offset_minutes", *SUMS[2:]), scope)
    begins = segment.thresholds(correlated, dynamix)
    run.write("user_segments", segment.segments(correlated, begins, dynamix, as_of), scope)
    report = _report(context, run, correlated, begins)
    if days.why:
        report = replace(report, texts={"counted_again.txt": days.why})
    for frame in (sums, correlated):
        frame.unpersist()
    return report


class _Days(NamedTuple):
    """The as_ofs to count for: all epoch ms."""

    since: int | None  # from when on impressions enter; None: all that there ever were
    again: tuple[int, ...]  # as_ofs before this one that are counted once more, rising
    first: int  # from this as_of on, the history lacks none of today's events
    why: str  # a sentence; '' where no day is counted again


def _days(context: Context, run: JobRun) -> _Days:
    """This as_of goes on from the last one before it, or, where events of earlier days came in since, these days are counted again.

    Raises LakeError where a later as_of holds the impressions of this one already.
    """
    dynamix, as_of = context.config.dynamix, context.config.time.as_of_ms
    if "dwell_statistics" not in context.lake.published_versions():
        return _Days(None, (), as_of, "")
    days = (
        run.read("dwell_statistics").groupBy(F.unix_millis("as_of").alias("day")).agg(F.min(F.unix_millis("entered_from")).alias("begin"))
    )
    begins = {row["day"]: row["begin"] for row in days.collect()}
    known: dict[int, int | None] = {}
    for day in sorted({*begins, *_run_for(context)}):  # a day without an impression has no rows; it began where the one before ended
        known[day] = begins.get(day, max(known, default=None))
    over = [day for day, begin in known.items() if day > as_of and (begin is None or begin < as_of)]
    if over and as_of not in known:
        raise LakeError(
            f"dwell_statistics of {format_time(min(over))} already hold the impressions before {format_time(as_of)}: run as_ofs in order"
        )
    earlier = sorted(day for day in known if day < as_of)
    history = {day: known[day] for day in earlier if not dynamix.history_days or day > as_of - round(dynamix.history_days * DAY_MS)}
    first = min(history, default=as_of)
    stale, why = _stale(context, run, history, {*known, as_of})
    if stale is None:
        return _Days(earlier[-1] if earlier else None, (), first, "")
    again = tuple(day for day in history if day >= stale)
    said = f"{why} dwell_statistics of {format_time(stale)} were counted: as_ofs counted again: {len(again)}"
    more = f"; their segments stay: run correlate_dwell for {format_time(stale)} and later as_ofs to name them again"
    return _Days(history[stale], again, first, f"{said}{more}")


def _stale(context: Context, run: JobRun, history: Mapping[int, int | None], run_for: Collection[int]) -> tuple[int | None, str]:
    """The first of these as_ofs (rising, each with the begin of its impressions) whose statistics lack events that came in since, or were
    counted under other settings; and which events or settings these are, as the begin of a sentence.

    Events that apply_retention let go, or that a later load no longer brought, cannot be counted again: as_ofs that were counted from
    any of them stay as they are.
    """
    if not history:
        return None, ""
    published = context.lake.runs().where("status = 'published'")
    adds = F.col("job").isin("ingest_events", "replay_quarantine") & F.col("outputs")["events"].isNotNull()
    additions = published.where(adds).select("facts", F.col("outputs")["events"].alias("version")).collect()
    inputs = F.col("inputs")["events"].alias("version")
    built = published.where("job = 'correlate_dwell'").select("scope", "facts", inputs).orderBy("version", "started").collect()
    scopes = {as_of_scope(day): day for day in run_for}
    counted = dict.fromkeys(history, -1)  # the version of events that was looked at last
    oldest = dict[int, int]()  # the first event's day then
    settings = dict[int, str]()
    for row in built:
        if (end := scopes.get(row["scope"])) is not None:
            begin = (row["facts"] or {}).get("statistics_from")
            first = parse_time(begin) if begin else end  # a run of an earlier release looked at its own as_of only
            looked_at = [day for day in history if first <= day <= end]
            counted |= {day: max(row["version"], counted[day]) for day in looked_at}
            if "counted_with" in (row["facts"] or {}):
                counted_from = parse_time(row["facts"]["counted_from"])
                settings |= {day: row["facts"]["counted_with"] for day in history if counted_from <= day <= end}
            if "events_from" in (row["facts"] or {}):
                oldest |= dict.fromkeys(looked_at, parse_time(row["facts"]["events_from"]))
    kept_from, first_event = _kept_from(published), _first_day(run)
    reach = context.config.dynamix.window_ms + context.config.dynamix.buffer_ms
    now = _counting(context.config.dynamix)
    for day, begin in history.items():
        other = settings.get(day, now) != now
        # All that it was counted from must still be there: a log may begin later than it did, too.
        whole = begin is not None and begin - reach >= max(kept_from, first_event + DAY_MS)
        if not whole and (kept_from > NEVER_MS or day not in oldest or first_event > oldest[day]):
            if other:
                logger.warning(
                    "dwell_statistics of %s were counted under other settings of dynamix, and not all of their events are there any "
                    "more: their sums stay, and are added to those of today's settings", format_time(day),
                )  # fmt: skip
            continue
        if other:
            return day, "dynamix had other settings when"
        for addition in additions:
            known_from = (addition["facts"] or {}).get("known_from")
            if addition["version"] > counted[day] and (known_from is None or parse_time(known_from) < day):
                return day, f"{'the whole log' if known_from is None else f'events known from {known_from} on'} came in after"
    return None, ""


def _counting(dynamix: DynamixConfig) -> str:
    """The settings that decide what is counted, as JSON."""
    names = ("impression_source", "conversion_sources", "window_seconds", "buffer_seconds", "dwell_min_ms", "dwell_max_ms", "day_windows")
    return json.dumps({name: getattr(dynamix, name) for name in names})


def _run_for(context: Context) -> list[int]:
    """The as_ofs, epoch ms, that a published run counted for."""
    rows = context.lake.runs().where("status = 'published' AND job = 'correlate_dwell'").select("scope").distinct().collect()
    return [parse_time(row["scope"].split("'")[1]) for row in rows]


def _kept_from(published: DataFrame) -> int:
    """Before when apply_retention let events go, epoch ms; NEVER_MS where it did not. LAST_AS_OF_MS where a run of an earlier release did
    not say.
    """
    runs = published.where("job = 'apply_retention'").where(F.col("outputs")["events"].isNotNull()).select("facts").collect()
    said = [(row["facts"] or {}).get("events_kept_from") for row in runs]
    return max((LAST_AS_OF_MS if one is None else parse_time(one) for one in said), default=NEVER_MS)


def _first_day(run: JobRun) -> int:
    """The first day of which there are events, epoch ms."""
    first = run.read("events").agg(F.min("known_date")).collect()[0][0]
    return LAST_AS_OF_MS if first is None else parse_time(str(first))


def _report(context: Context, run: JobRun, correlated: DataFrame, begins: dict[str, tuple[float, ...]]) -> Report:
    as_of = context.config.time.as_of_ms
    scope = as_of_scope(as_of)
    overall = correlated.where(F.col("surface") == ALL_SURFACES)
    impressions = F.col("n_1") + F.col("n_0")
    rows, known, mean, total, converted = overall.agg(
        F.count(F.lit(1)), F.count("corr"), F.avg("corr"), F.sum(impressions), F.sum("n_1")
    ).collect()[0]
    (outliers,) = context.lake.read("dwell_statistics", run.outputs["dwell_statistics"]).where(scope).agg(F.sum("outliers")).collect()[0]
    named = context.lake.read("user_segments", run.outputs["user_segments"])
    today = named.where(scope).where(F.col("surface") == ALL_SURFACES).select("user_id", "segment").distinct()
    metrics: dict[str, float | None] = {
        "users": rows,
        "users_with_correlation": known,
        "mean_corr": mean,
        "impressions": total,
        "converted_share": converted / total if total else None,
        "outliers": outliers,
    }
    metrics |= {f"segment.{row['segment']}": row["count"] for row in today.groupBy("segment").count().collect()}
    metrics |= {f"threshold.{surface}": found[0] for surface, found in begins.items()}
    why = _switches(context, run, overall, begins)
    met = sum(why.values())
    if met:
        metrics |= {"switched_share": 1 - why.get("", 0) / met}
        metrics |= {f"switched.{reason.replace(' ', '_')}_share": why.get(reason, 0) / met for reason in segment.SWITCHES}
    shown = overall.where("corr IS NOT NULL").groupBy(F.round("corr", 2).alias("corr")).count().orderBy("corr")
    bins = pd.DataFrame(shown.toPandas())
    if not len(bins):
        return Report(metrics)
    figure = histogram(bins["corr"].to_numpy(), bins["count"].to_numpy(), "correlation of dwell and conversion (8)", "users")
    return Report(metrics, {"correlate_dwell/correlation.png": figure} | _dwell_figures(context, run, overall))


def _switches(context: Context, run: JobRun, overall: DataFrame, begins: dict[str, tuple[float, ...]]) -> dict[str, int]:
    """Why the users' segments are others than at the last as_of before -> users; '' are those who did not switch."""
    as_of, dynamix = context.config.time.as_of_ms, context.config.dynamix
    written = context.lake.read("dwell_correlations", run.outputs["dwell_correlations"]).where(F.col("surface") == ALL_SURFACES)
    before = written.where(F.col("as_of") < timestamp(as_of))
    last = before.agg(F.unix_millis(F.max("as_of"))).collect()[0][0]
    if last is None:
        return {}
    then = before.where(F.col("as_of") == timestamp(last)).persist()
    found = segment.switches(overall, then, begins, segment.thresholds(then, dynamix)).groupBy(F.coalesce("why", F.lit("")).alias("why"))
    counted = {row["why"]: row["count"] for row in found.count().collect()}
    then.unpersist()
    return counted


def _dwell_figures(context: Context, run: JobRun, overall: DataFrame) -> dict[str, Figure]:
    """Log dwell before a conversion and elsewhere: of a sample of users together (DynamiX, Figure 3), and of three of them (Figure 4)."""
    drawn = overall.orderBy(F.xxhash64("user_id")).limit(DRAWN_USERS).select("user_id")
    clear = overall.where("n_1 >= 10 AND n_0 >= 10 AND std_error > 0").withColumn("score", F.col("corr") / F.col("std_error"))
    users = {
        name: row["user_id"]
        for name, place in (("positive", F.desc("score")), ("low", F.asc(F.abs("score"))), ("negative", F.asc("score")))
        for row in clear.orderBy(place, "user_id").limit(1).collect()
    }
    wanted = drawn.unionByName(context.spark.createDataFrame([(user,) for user in users.values()] or [("",)], "user_id string")).distinct()
    events = run.read("events").join(F.broadcast(wanted), "user_id", "left_semi")
    whose = F.when(F.col("user_id").isin(list(users.values())), F.col("user_id")).otherwise("")
    binned = labelled_dwell(events, context.config.dynamix, context.config.time.as_of_ms).groupBy(
        whose.alias("user_id"), "converted", (F.floor(F.col("log_dwell") * BINS_PER_LOG) / BINS_PER_LOG).alias("log_dwell")
    )
    counts = pd.DataFrame(binned.count().toPandas())
    figures = {"correlate_dwell/log_dwell.png": _shares(counts)}
    for name, user in users.items():
        figures[f"correlate_dwell/log_dwell_{name}.png"] = _shares(counts[counts["user_id"] == user])
    return figures


def _shares(counts: pd.DataFrame) -> Figure:
    """Share of the impressions per step of log dwell, with and without a conversion nearby."""
    lines = {}
    for flag, name in ((True, "a conversion nearby"), (False, "none")):
        part = counts[counts["converted"] == flag].groupby("log_dwell")["count"].sum().sort_index()
        if len(part):
            lines[name] = (part.index.to_numpy(), (part / part.sum()).to_numpy())
    return curves(lines, "log of dwell, ms", "share of impressions")


JOB = Job(
    "correlate_dwell",
    "how dwell and conversion of each user go together, and the segment that follows from it",
    ("events", "dwell_statistics"),
    ("dwell_statistics", "dwell_correlations", "user_segments"),
    lambda config: as_of_scope(config.time.as_of_ms),
    correlate,
)

if __name__ == "__main__":
    JOB.main()

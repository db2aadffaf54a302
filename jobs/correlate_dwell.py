"""events -> dwell_statistics, dwell_correlations, user_segments at one as_of: who is active, and for how long that holds (DynamiX)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.config import ALL_SURFACES, DAY_MS, format_time
from alure_spark.dynamix import segments as segment
from alure_spark.dynamix.statistics import SUMS, labelled_dwell, merged, new_statistics
from alure_spark.errors import LakeError
from alure_spark.lake import JobRun, as_of_scope, timestamp
from alure_spark.plots import curves, histogram
from jobs.command import Context, Job, Report

DRAWN_USERS = 2000  # whose log dwell is drawn
BINS_PER_LOG = 4


def correlate(context: Context, run: JobRun) -> Report:
    dynamix, as_of = context.config.dynamix, context.config.time.as_of_ms
    scope = as_of_scope(as_of)
    since = _since(context, run)
    added = new_statistics(run.read("events"), dynamix, since, as_of).withColumns(
        {"as_of": timestamp(as_of), "entered_from": F.lit(None).cast("timestamp") if since is None else timestamp(since)}
    )
    run.write("dwell_statistics", added, scope)
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
    for frame in (sums, correlated):
        frame.unpersist()
    return report


def _since(context: Context, run: JobRun) -> int | None:
    """The last as_of before this one, from which its impressions enter; None where there is none."""
    as_of = context.config.time.as_of_ms
    if "dwell_statistics" not in context.lake.published_versions():
        return None
    days = (
        run.read("dwell_statistics").groupBy(F.unix_millis("as_of").alias("day")).agg(F.min(F.unix_millis("entered_from")).alias("begin"))
    )
    known = {row["day"]: row["begin"] for row in days.collect()}
    over = [day for day, begin in known.items() if day > as_of and (begin is None or begin < as_of)]
    if over and as_of not in known:
        raise LakeError(
            f"dwell_statistics of {format_time(min(over))} already hold the impressions before {format_time(as_of)}: run as_ofs in order"
        )
    earlier = [day for day in known if day < as_of]
    return max(earlier) if earlier else None


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

"""What a person looks at after the correlations of one as_of: how many users, why they switched, and dwell before conversions."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..config import ALL_SURFACES, DynamixConfig
from ..lake import JobRun, as_of_scope, timestamp
from ..plots import curves, histogram
from . import segments as segment
from .statistics import labelled_dwell

DRAWN_USERS = 2000  # whose log dwell is drawn
BINS_PER_LOG = 4
Begins = dict[str, tuple[float, ...]]  # segments.thresholds


def metrics_and_figures(
    run: JobRun, dynamix: DynamixConfig, as_of_ms: int, correlated: DataFrame, begins: Begins
) -> tuple[dict[str, float | None], dict[str, Figure]]:
    """Metrics by name, figures by file name. correlated: rows of `segments.correlations`; the run has written its tables."""
    scope = as_of_scope(as_of_ms)
    overall = correlated.where(F.col("surface") == ALL_SURFACES)
    impressions = F.col("n_1") + F.col("n_0")
    rows, known, mean, total, converted = overall.agg(
        F.count(F.lit(1)), F.count("corr"), F.avg("corr"), F.sum(impressions), F.sum("n_1")
    ).collect()[0]
    (outliers,) = run.written("dwell_statistics").where(scope).agg(F.sum("outliers")).collect()[0]
    named = run.written("user_segments")
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
    why = _switches(run, dynamix, as_of_ms, overall, begins)
    met = sum(why.values())
    if met:
        metrics |= {"switched_share": 1 - why.get("", 0) / met}
        metrics |= {f"switched.{reason.replace(' ', '_')}_share": why.get(reason, 0) / met for reason in segment.SWITCHES}
    shown = overall.where("corr IS NOT NULL").groupBy(F.round("corr", 2).alias("corr")).count().orderBy("corr")
    bins = pd.DataFrame(shown.toPandas())
    if not len(bins):
        return metrics, {}
    figure = histogram(bins["corr"].to_numpy(), bins["count"].to_numpy(), "correlation of dwell and conversion (8)", "users")
    return metrics, {"correlate_dwell/correlation.png": figure} | _dwell_figures(run, dynamix, as_of_ms, overall)


def _switches(run: JobRun, dynamix: DynamixConfig, as_of_ms: int, overall: DataFrame, begins: Begins) -> dict[str, int]:
    """Why the users' segments are others than at the last as_of before -> users; '' are those who did not switch."""
    written = run.written("dwell_correlations").where(F.col("surface") == ALL_SURFACES)
    before = written.where(F.col("as_of") < timestamp(as_of_ms))
    last = before.agg(F.unix_millis(F.max("as_of"))).collect()[0][0]
    if last is None:
        return {}
    then = before.where(F.col("as_of") == timestamp(last)).persist()
    found = segment.switches(overall, then, begins, segment.thresholds(then, dynamix)).groupBy(F.coalesce("why", F.lit("")).alias("why"))
    counted = {row["why"]: row["count"] for row in found.count().collect()}
    then.unpersist()
    return counted


def _dwell_figures(run: JobRun, dynamix: DynamixConfig, as_of_ms: int, overall: DataFrame) -> dict[str, Figure]:
    """Log dwell before a conversion and elsewhere: of a sample of users together (DynamiX, Figure 3), and of three of them (Figure 4)."""
    drawn = overall.orderBy(F.xxhash64("user_id")).limit(DRAWN_USERS).select("user_id")
    clear = overall.where("n_1 >= 10 AND n_0 >= 10 AND std_error > 0").withColumn("score", F.col("corr") / F.col("std_error"))
    users = {
        name: row["user_id"]
        for name, place in (("positive", F.desc("score")), ("low", F.asc(F.abs("score"))), ("negative", F.asc("score")))
        for row in clear.orderBy(place, "user_id").limit(1).collect()
    }
    three = run.lake.spark.createDataFrame([(user,) for user in users.values()] or [("",)], "user_id string")
    wanted = drawn.unionByName(three).distinct()
    events = run.read("events").join(F.broadcast(wanted), "user_id", "left_semi")
    whose = F.when(F.col("user_id").isin(list(users.values())), F.col("user_id")).otherwise("")
    binned = labelled_dwell(events, dynamix, as_of_ms).groupBy(
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

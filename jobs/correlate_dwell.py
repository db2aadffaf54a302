"""events -> dwell_statistics, dwell_correlations, user_segments at one as_of: who is active, and for how long that holds (DynamiX)."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.config import ALL_SURFACES, DAY_MS, format_time
from alure_spark.dynamix import segments as segment
from alure_spark.dynamix.statistics import SUMS, merged, new_statistics
from alure_spark.errors import LakeError
from alure_spark.lake import JobRun, as_of_scope, timestamp
from alure_spark.plots import histogram
from jobs.command import Context, Job, Report


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
    before = named.where(F.col("surface") == ALL_SURFACES).where(F.col("as_of") < timestamp(as_of))
    last = before.agg(F.max("as_of")).collect()[0][0]
    if last is not None:
        then = before.where(F.col("as_of") == F.lit(last)).select("user_id", F.col("segment").alias("earlier")).distinct()
        met, switched = today.join(then, "user_id").agg(
            F.count(F.lit(1)), F.sum((F.col("segment") != F.col("earlier")).cast("int"))
        ).collect()[0]  # fmt: skip
        metrics |= {"switched_share": switched / met if met else None}
    shown = overall.where("corr IS NOT NULL").groupBy(F.round("corr", 2).alias("corr")).count().orderBy("corr")
    bins = pd.DataFrame(shown.toPandas())
    figure = histogram(bins["corr"].to_numpy(), bins["count"].to_numpy(), "correlation of dwell and conversion (8)", "users")
    return Report(metrics, {"correlate_dwell/correlation.png": figure} if len(bins) else {})


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

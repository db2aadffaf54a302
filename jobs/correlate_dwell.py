"""events -> dwell_statistics, dwell_correlations, user_segments at one as_of: who is active, and for how long that holds (DynamiX)."""

from __future__ import annotations

from alure_spark.dynamix import counting, report, segments
from alure_spark.dynamix.statistics import SUMS, merged
from alure_spark.lake import JobRun, as_of_scope, timestamp
from alure_spark.running import Context, Job, Report


def correlate(context: Context, run: JobRun) -> Report:
    dynamix, as_of = context.config.dynamix, context.config.time.as_of_ms
    scope = as_of_scope(as_of)
    days = counting.days_to_count(run, dynamix, as_of)
    sums = merged(counting.write_statistics(run, dynamix, as_of, days)).persist()
    common = segments.populations(sums) if dynamix.shrinkage else {}
    correlated = segments.correlations(sums, common).withColumn("as_of", timestamp(as_of)).persist()
    run.write("dwell_correlations", correlated.drop("utc_offset_minutes", *SUMS[2:]), scope)
    begins = segments.thresholds(correlated, dynamix)
    run.write("user_segments", segments.segments(correlated, begins, dynamix, as_of), scope)
    metrics, figures = report.metrics_and_figures(run, dynamix, as_of, correlated, begins)
    for frame in (sums, correlated):
        frame.unpersist()
    return Report(metrics, figures, {"counted_again.txt": days.why} if days.why else {})


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

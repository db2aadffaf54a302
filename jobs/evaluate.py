"""Everything published for as_of, evaluated by what happened after it -> evaluation_users, metrics and plots; --against compares runs."""

from __future__ import annotations

from alure_spark.analysis.evaluation_report import gain_report, recall_report
from alure_spark.analysis.evaluation_table import earlier_rows, write_evaluation
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report


def evaluate(context: Context, run: JobRun) -> Report:
    config, against = context.config, context.against
    rows, metrics = write_evaluation(run, config)
    recall, figures, table = recall_report(rows, config.evaluate)
    texts = {"evaluate/summary.txt": table}
    if against:
        theirs = earlier_rows(context.lake, context.tracker, against, config.lake.vacuum_hours)
        gain, table = gain_report(rows, theirs, config.evaluate)
        recall |= gain
        texts["evaluate/against.txt"] = f"against {against}\n{table}"
    return Report(metrics | recall, figures, texts)


JOB = Job(
    "evaluate",
    "recall and NDCG of candidates and graph by the held-out future",
    ("events", "ads", "user_edges", "ad_candidates"),
    ("evaluation_users",),
    lambda config: as_of_scope(config.time.as_of_ms),
    evaluate,
)

if __name__ == "__main__":
    JOB.main()

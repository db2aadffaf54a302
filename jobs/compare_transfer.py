"""What train_ranking reads -> what representations of the user model are worth to each downstream task of the conf, in MLflow (LFM4Ads).

Each of `transfer.compare` is the conf's ranking model with fields dropped, or read otherwise, trained on the impressions of each of
`transfer.downstream` with each of transfer.compare_seeds and compared with a model that reads no representation. The MLflow run of the
job is the parent, every downstream task and variant a child. No table is written and no model registered.
"""

from __future__ import annotations

from alure_spark.analysis import transfer_comparison
from alure_spark.analysis.transfer_report import FILES, table, transfer_report
from alure_spark.events.ranking_fields import FIELD_TABLES
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report


def compare(context: Context, run: JobRun) -> Report:
    made = transfer_comparison.compare(run, context.config, context.tracker)
    metrics, figures, text = transfer_report(made)
    context.tracker.log_text(table(made.results).to_csv(index=False), f"{FILES}/table.csv")
    return Report(metrics, figures, {f"{FILES}/summary.txt": text})


JOB = Job(
    "compare_transfer",
    "what representations of the user model are worth to downstream tasks: normalized entropy with them and without",
    ("training_examples", *FIELD_TABLES),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    compare,
)

if __name__ == "__main__":
    JOB.main()

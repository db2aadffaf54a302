"""training_examples, dwell_correlations, the registered model -> where active begins, by the largest gap in normalized entropy.

Users are split by their correlation at the last as_of before the validation split, and evaluated on that split by the twin of the
model that has not seen it. No table is written: what is found goes into the conf as dynamix.threshold=given and dynamix.thresholds.
"""

from __future__ import annotations

from alure_spark.analysis.threshold_report import correlation_sizes, threshold_report
from alure_spark.analysis.validation_split import validated_model, validation_split
from alure_spark.clock import format_time
from alure_spark.errors import ConfigError
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report
from alure_spark.training import user_evaluation


def search(context: Context, run: JobRun) -> Report:
    config = context.config
    if config.dynamix.day_windows != 1:
        raise ConfigError(f"dynamix.day_windows is {config.dynamix.day_windows}; allowed here: 1, a user has one correlation")
    artifact = validated_model(config, context.tracker)
    border = config.time.as_of_ms - config.labels.validation_ms
    sizes = correlation_sizes(run.read("dwell_correlations"), border)
    with validation_split(run, config, artifact, "threshold") as split:
        evaluated = user_evaluation.evaluate(split.model, split.loader, split.moments, config.training.objectives)
    metrics, figures, texts = threshold_report(split, evaluated, sizes)
    title = f"{artifact.model_id}, correlations as of the last run at or before {format_time(border)}"
    return Report(metrics, figures, {"search_threshold/curves.txt": "\n\n".join([title, *texts])})


JOB = Job(
    "search_threshold",
    "the threshold of active users at which normalized entropy differs most between the segments",
    ("training_examples", "dwell_correlations"),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    search,
)

if __name__ == "__main__":
    JOB.main()

"""training_examples, the registered model -> what each attribute of each source tells, in MLflow: which ones a policy may drop.

Evaluated on the validation split of time.as_of, by the twin of the model that has not seen it. No table is written.
"""

from __future__ import annotations

from alure_spark.analysis.importance import attribute_importance
from alure_spark.analysis.importance_report import importance_report
from alure_spark.analysis.validation_split import validated_model, validation_split
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report


def evaluate(context: Context, run: JobRun) -> Report:
    artifact = validated_model(context.config, context.tracker)
    with validation_split(run, context.config, artifact, "importance") as split:
        evaluated = attribute_importance(split.model, split.loader, split.moments)
    metrics, figures, text = importance_report(evaluated)
    return Report(metrics, figures, {"attribute_importance/table.txt": f"{artifact.model_id}\n{text}"})


JOB = Job(
    "attribute_importance",
    "normalized entropy that each attribute of each source is worth to the registered model",
    ("training_examples",),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    evaluate,
)

if __name__ == "__main__":
    JOB.main()

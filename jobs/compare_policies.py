"""training_examples, user_sequences -> what each of the conf's `experiments` gains in normalized entropy and costs in time, in MLflow.

An experiment is a policy per segment (conf, `feature_policy`) and the experiment that it is compared with: removal of weak attributes,
or addition of sources and attributes, for some segments or for all (DynamiX, Tables 2 and 3). Every experiment is trained with each of
dynamix.compare_seeds and evaluated on the validation split; experiments that leave the same are trained once. The MLflow run of the job is
the parent, every training a child. No table is written and no model registered.
"""

from __future__ import annotations

from alure_spark.analysis import policy_comparison
from alure_spark.analysis.policy_report import policy_report
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report


def compare(context: Context, run: JobRun) -> Report:
    found = policy_comparison.compare(run, context.config, context.tracker)
    metrics, figures, tables = policy_report(found)
    return Report(metrics, figures, {"compare_policies/tables.txt": tables})


JOB = Job(
    "compare_policies",
    "normalized entropy and throughput of the conf's experiments, per segment and in total",
    ("training_examples", "vocabularies", "user_sequences", "user_segments"),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    compare,
)

if __name__ == "__main__":
    JOB.main()

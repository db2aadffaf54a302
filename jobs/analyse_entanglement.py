"""training_examples, ads, the registered ranking model -> whether its tasks entangle one embedding, in MLflow.

Distances of pairs of user and ad that are near in one task and far in another, under single-task models, which this job trains on the same
rows, and under each embedding of the registered model (Pan et al., section 7.3). No table is written.
"""

from __future__ import annotations

from alure_spark.analysis.entanglement_report import entanglement_report
from alure_spark.analysis.ranking_batches import ranking_batches
from alure_spark.analysis.single_task_models import registered_entanglement
from alure_spark.inference.registered import ranking_champion
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report


def analyse(context: Context, run: JobRun) -> Report:
    artifact = ranking_champion(context.config, context.tracker)
    with ranking_batches(run, context.config, artifact, "entanglement") as batches:
        found = registered_entanglement(batches, context.config.ranking)
    metrics, figures, text = entanglement_report(found, "analyse_entanglement")
    return Report(metrics, figures, {"analyse_entanglement/pairs.txt": f"{artifact.model_id}\n{text}"})


JOB = Job(
    "analyse_entanglement",
    "distances of user and ad pairs on which tasks disagree, under the ranking model's embeddings",
    ("training_examples", "ads", "user_embeddings"),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    analyse,
)

if __name__ == "__main__":
    JOB.main()

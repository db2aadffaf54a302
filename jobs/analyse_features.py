"""training_examples, ads, the registered ranking model -> when a past behaviour says something of the response, in MLflow.

For each of ranking.sequences: mutual information of behaviours with the response (Pan et al., section 7.1, equations 6 and 7), by what they
were of and how many behaviours or how long ago, beside the attention that the model gives them. No table is written.
"""

from __future__ import annotations

from alure_spark.analysis.feature_information import feature_information
from alure_spark.analysis.feature_report import category_names, feature_report, shown_rows
from alure_spark.analysis.ranking_batches import ranking_batches
from alure_spark.inference.registered import ranking_champion
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report


def analyse(context: Context, run: JobRun) -> Report:
    artifact, measured, names = ranking_champion(context.config, context.tracker), {}, {}
    spec, events = artifact.spec, run.read("events")
    with ranking_batches(run, context.config, artifact, "features") as batches:
        for name, sequence in spec.sequences.items():
            cells = measured[name] = feature_information(batches.network, batches.loader, name)
            space = spec.space_of(sequence.target)
            names[name] = category_names(events, sequence.category, batches.vocabulary, space, shown_rows(cells))
    metrics, figures, text = feature_report(measured, names)
    return Report(metrics, figures, {"analyse_features/strongest.txt": f"{artifact.model_id}\n{text}"})


JOB = Job(
    "analyse_features",
    "what behaviours say of the response by when they were, beside the ranking model's attention",
    ("training_examples", "ads", "user_embeddings", "events"),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    analyse,
)

if __name__ == "__main__":
    JOB.main()

"""The registered ranking model -> whether its embedding tables use their dimensions, in MLflow: before and after training.

Singular values and information abundance of the rows of each field in each table (Pan et al., section 7.2). The rows before training are
drawn again from the seed of that training. No table is read or written.
"""

from __future__ import annotations

from alure_spark.analysis.embedding_report import embedding_report
from alure_spark.inference.registered import ranking_champion
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.running import Context, Job, Report
from alure_spark.training.ranking_model import drawn_network


def analyse(context: Context, run: JobRun) -> Report:
    artifact = ranking_champion(context.config, context.tracker)
    seed = int(artifact.facts.get("seed", context.config.ranking.seed))
    metrics, figures, text = embedding_report(artifact.network()[0], drawn_network(artifact.spec, seed))
    title = f"{artifact.model_id}, drawn with the seed {seed}"
    if "continues" in artifact.facts:
        title += f"; rows that it has from {artifact.facts['continues']}, which it goes on from, were drawn for an earlier model"
    return Report(metrics, figures, {"analyse_embeddings/table.txt": f"{title}\n{text}"})


JOB = Job(
    "analyse_embeddings",
    "singular values and information abundance of the ranking model's fields, before and after training",
    (),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    analyse,
)

if __name__ == "__main__":
    JOB.main()

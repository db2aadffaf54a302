"""training_examples, the registered model -> what each attribute of each source tells, in MLflow: which ones a policy may drop.

Judged on the validation split of time.as_of, by the twin of the model that has not seen it. No table is written.
"""

from __future__ import annotations

import pandas as pd

from alure_spark.analysis.importance import attribute_importance
from alure_spark.inference.registered import registered
from alure_spark.lake import JobRun, as_of_scope, workspace
from alure_spark.model.artifact import read_validated
from alure_spark.model.decode import Layout
from alure_spark.model.user_model import Moments
from alure_spark.plots import bars
from alure_spark.running import Context, Job, Report
from alure_spark.training.loader import segment_loaders


def judge(context: Context, run: JobRun) -> Report:
    config, as_of = context.config, context.config.time.as_of_ms
    version = registered(config, context.tracker)
    artifact = read_validated(version.folder, version.digest)
    model, vocabulary = artifact.model()
    layout = Layout.of(artifact.spec, impressions=True)
    examples = run.read("training_examples").where(as_of_scope(as_of))
    border = as_of - config.labels.validation_ms
    name = f"importance-{run.run_id}"
    with segment_loaders(examples, layout, vocabulary, config.training, workspace(config.lake), name) as packed:
        loader = packed.decoding(artifact.spec, vocabulary)
        judged = attribute_importance(model, loader, Moments(border, as_of, border, validation=True))
    table = pd.DataFrame([vars(one) for one in judged])
    figures = {}
    for head, rows in table.groupby("head", sort=False) if len(table) else ():
        named = [f"{row.source}.{row.attribute}" for row in rows.itertuples()]
        spread = dict(zip(named, zip(rows["low"], rows["high"], strict=True), strict=True))
        losses = dict(zip(named, rows["ne_loss"], strict=True))
        figures[f"attribute_importance/{head}.png"] = bars(losses, spread, f"{head}: normalized entropy lost without it", named[0])
    metrics: dict[str, float | None] = {f"{row.head}.{row.source}.{row.attribute}": row.ne_loss for row in table.itertuples()}
    text = table.to_string(index=False, float_format="%.5f") if len(table) else "no head has labels of both classes"
    return Report(metrics, figures, {"attribute_importance/table.txt": f"{artifact.model_id}\n{text}"})


JOB = Job(
    "attribute_importance",
    "normalized entropy that each attribute of each source is worth to the registered model",
    ("training_examples",),
    (),
    lambda config: as_of_scope(config.time.as_of_ms),
    judge,
)

if __name__ == "__main__":
    JOB.main()

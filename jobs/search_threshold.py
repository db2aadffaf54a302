"""training_examples, dwell_correlations, the registered model -> where active begins, by the largest gap in normalized entropy.

Users are told apart by their correlation at the last as_of before the validation split, and judged on it by the twin of the model that has
not seen it. No table is written: what is found goes into the conf as dynamix.threshold=given and dynamix.thresholds.
"""

from __future__ import annotations

import numpy as np
from pyspark.sql import functions as F

from alure_spark.analysis.thresholds import ne_gap
from alure_spark.clock import format_time
from alure_spark.config import ALL_SURFACES
from alure_spark.errors import ConfigError, DataError
from alure_spark.inference.registered import registered
from alure_spark.lake import JobRun, as_of_scope, timestamp, workspace
from alure_spark.model.artifact import read_validated
from alure_spark.model.decode import Layout
from alure_spark.model.readout import HEADS
from alure_spark.model.user_model import Moments
from alure_spark.plots import curves
from alure_spark.running import Context, Job, Report
from alure_spark.training import loop
from alure_spark.training.loader import segment_loaders


def search(context: Context, run: JobRun) -> Report:
    config, as_of = context.config, context.config.time.as_of_ms
    if config.dynamix.day_windows != 1:
        raise ConfigError(f"dynamix.day_windows is {config.dynamix.day_windows}; allowed here: 1, a user has one correlation")
    version = registered(config, context.tracker)
    artifact = read_validated(version.folder, version.digest)
    model, vocabulary = artifact.model()
    border = as_of - config.labels.validation_ms
    known = _sizes(run, border)
    layout = Layout.of(artifact.spec, impressions=True)
    examples = run.read("training_examples").where(as_of_scope(as_of))
    with segment_loaders(examples, layout, vocabulary, config.training, workspace(config.lake), f"threshold-{run.run_id}") as packed:
        loader = packed.decoding(artifact.spec, vocabulary)
        judged = loop.evaluate(model, loader, Moments(border, as_of, border, validation=True), config.training.objectives)
    probabilities, size = loop.probabilities(model, judged), np.array([known.get(user, 0.0) for user in judged.users])
    metrics: dict[str, float | None] = {}
    figures, texts = {}, [f"{artifact.model_id}, correlations as of the last run at or before {format_time(border)}"]
    for column, head in enumerate(HEADS):
        if not judged.has_both(column):
            continue
        found = ne_gap(size, judged.labels[:, column], probabilities[:, column], judged.weights, judged.users)
        metrics |= {f"{head}.epsilon": found.epsilon, f"{head}.gap": found.gap} | {
            f"{head}.gap_{end}": getattr(found.interval, end) for end in ("low", "high")
        }
        epsilon = found.curve["epsilon"].to_numpy()
        lines = {name: (epsilon, found.curve[name].to_numpy()) for name in ("ne_active", "ne_passive")}
        figures[f"search_threshold/{head}.png"] = curves(lines, "epsilon, of |corr|", f"{head}: normalized entropy")
        texts.append(
            f"{head}: --set dynamix.threshold=given --set dynamix.thresholds=[{found.epsilon:.4f}]   gap {found.gap:+.4f} "
            f"({found.interval.low:+.4f} to {found.interval.high:+.4f})\n{found.curve.to_string(index=False, float_format='%.4f')}"
        )
    return Report(metrics, figures, {"search_threshold/curves.txt": "\n\n".join(texts)})


def _sizes(run: JobRun, border_ms: int) -> dict[str, float]:
    """User -> |corr| at the newest as_of at or before the border. Raises DataError where there is none."""
    before = run.read("dwell_correlations").where(F.col("surface") == ALL_SURFACES).where(F.col("as_of") <= timestamp(border_ms))
    last = before.agg(F.unix_millis(F.max("as_of"))).collect()[0][0]
    if last is None:
        raise DataError(
            f"dwell_correlations has nothing at or before {format_time(border_ms)}, where validation begins: run jobs/correlate_dwell.py "
            "for the days before it (--from DAY --to DAY)"
        )
    rows = before.where(F.col("as_of") == timestamp(last)).where("corr IS NOT NULL").select("user_id", F.abs("corr").alias("size"))
    return {row["user_id"]: row["size"] for row in rows.collect()}


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

"""Where active begins, for each task of a model, as a person reads it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import format_time
from ..config import ALL_SURFACES
from ..errors import DataError
from ..lake import timestamp
from ..plots import curves
from ..training import user_evaluation
from .thresholds import ne_gap
from .validation_split import ValidationSplit


def correlation_sizes(dwell_correlations: DataFrame, border_ms: int) -> dict[str, float]:
    """User -> |corr| at the newest as_of at or before the border. Raises DataError where there is none."""
    before = dwell_correlations.where(F.col("surface") == ALL_SURFACES).where(F.col("as_of") <= timestamp(border_ms))
    last = before.agg(F.unix_millis(F.max("as_of"))).collect()[0][0]
    if last is None:
        raise DataError(
            f"dwell_correlations has nothing at or before {format_time(border_ms)}, where validation begins: run jobs/correlate_dwell.py "
            "for the days before it (--from DAY --to DAY)"
        )
    rows = before.where(F.col("as_of") == timestamp(last)).where("corr IS NOT NULL").select("user_id", F.abs("corr").alias("size"))
    return {row["user_id"]: row["size"] for row in rows.collect()}


def threshold_report(
    split: ValidationSplit, evaluated: user_evaluation.Evaluation, sizes: dict[str, float]
) -> tuple[dict[str, float | None], dict[str, Figure], list[str]]:
    """(metrics, figures by file name, a text per task) of the tasks with labels of both classes. sizes: `correlation_sizes`."""
    probabilities, size = (
        user_evaluation.probabilities(split.model, evaluated),
        np.array([sizes.get(user, 0.0) for user in evaluated.users]),
    )
    metrics: dict[str, float | None] = {}
    figures, texts = {}, []
    for column, task in enumerate(evaluated.tasks):
        if not evaluated.has_both(column):
            continue
        found = ne_gap(size, evaluated.labels[:, column], probabilities[:, column], evaluated.weights, evaluated.users)
        metrics |= {f"{task}.epsilon": found.epsilon, f"{task}.gap": found.gap} | {
            f"{task}.gap_{end}": getattr(found.interval, end) for end in ("low", "high")
        }
        epsilon = found.curve["epsilon"].to_numpy()
        lines = {name: (epsilon, found.curve[name].to_numpy()) for name in ("ne_active", "ne_passive")}
        figures[f"search_threshold/{task}.png"] = curves(lines, "epsilon, of |corr|", f"{task}: normalized entropy")
        texts.append(
            f"{task}: --set dynamix.threshold=given --set dynamix.thresholds=[{found.epsilon:.4f}]   gap {found.gap:+.4f} "
            f"({found.interval.low:+.4f} to {found.interval.high:+.4f})\n{found.curve.to_string(index=False, float_format='%.4f')}"
        )
    return metrics, figures, texts

"""An evaluation as a person reads it: metrics, bars with intervals, a table, and the difference to an earlier run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..config import EvaluateConfig
from ..metrics import paired_interval
from ..plots import bars
from . import evaluation

Metrics = dict[str, float | None]


def recall_report(rows: pd.DataFrame, evaluate: EvaluateConfig) -> tuple[Metrics, dict[str, Figure], str]:
    """(metrics, figures by file name, the table). rows: those of evaluation_table.write_evaluation."""
    table = evaluation.summary(rows, evaluate.bootstrap, evaluate.seed)
    metrics: Metrics = {}
    figures = {}
    for task in ("ads", "items"):
        mine = table[table["task"] == task]
        metrics[f"{task}.recall"] = metrics[f"{task}.ndcg"] = None
        for row in mine.itertuples():
            suffix = "" if row.policy == "pipeline" else f".{row.policy}"
            metrics[f"{task}.recall{suffix}"], metrics[f"{task}.ndcg{suffix}"] = row.recall, row.ndcg
            if suffix:
                metrics |= {f"{task}.recall_minus{suffix}": row.pipeline_minus, f"{task}.recall_minus{suffix}.low": row.low}
        if len(mine):
            recall = rows[rows["task"] == task].pivot(index="user_id", columns="policy", values="recall")
            spread = {
                name: paired_interval(recall[name].to_numpy(), np.zeros(len(recall)), evaluate.bootstrap, evaluate.seed)[1:]
                for name in recall
            }
            figures[f"evaluate/{task}_recall.png"] = bars(
                dict(zip(mine["policy"], mine["recall"], strict=True)), spread, f"{task}: Recall@{evaluate.k}", "pipeline"
            )
    text = table.to_string(index=False, float_format="%.4f") if len(table) else "nothing to evaluate: no later items or ads"
    return metrics, figures, text


def gain_report(ours: pd.DataFrame, theirs: pd.DataFrame, evaluate: EvaluateConfig) -> tuple[Metrics, str]:
    """(metrics over all users, the table) of an evaluation minus an earlier one, paired by user."""
    comparison = evaluation.compare(ours, theirs, evaluate.bootstrap, evaluate.seed)
    metrics: Metrics = {}
    for row in comparison[comparison["group"] == "all users"].itertuples():
        metrics |= {
            f"{row.task}.recall_gain": row.difference,
            f"{row.task}.recall_gain.low": row.low,
            f"{row.task}.recall_gain.high": row.high,
        }
    return metrics, comparison.to_string(index=False, float_format="%.4f")

"""What each attribute is worth, as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from ..plots import bars
from .importance import Importance


def importance_report(evaluated: Sequence[Importance]) -> tuple[dict[str, float | None], dict[str, Figure], str]:
    """(metrics, a figure per task by file name, the table)."""
    table = pd.DataFrame([vars(one) for one in evaluated])
    figures = {}
    for task, rows in table.groupby("task", sort=False) if len(table) else ():
        named = [f"{row.source}.{row.attribute}" for row in rows.itertuples()]
        spread = dict(zip(named, zip(rows["low"], rows["high"], strict=True), strict=True))
        losses = dict(zip(named, rows["ne_loss"], strict=True))
        figures[f"attribute_importance/{task}.png"] = bars(losses, spread, f"{task}: normalized entropy lost without it", named[0])
    metrics: dict[str, float | None] = {f"{row.task}.{row.source}.{row.attribute}": row.ne_loss for row in table.itertuples()}
    text = table.to_string(index=False, float_format="%.5f") if len(table) else "no task has labels of both classes"
    return metrics, figures, text

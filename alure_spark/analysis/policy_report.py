"""What experiments with policies gain and save, as a person reads it."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ..plots import bars, curves
from . import policies
from .policy_comparison import Comparison


def policy_report(found: Comparison) -> tuple[dict[str, float | None], dict[str, Figure], str]:
    """(metrics, figures by file name, the tables of gains and of speeds)."""
    gains, speeds, lines, against = found
    metrics: dict[str, float | None] = {}
    for gain in gains:
        metrics |= {f"{gain.experiment}.{gain.segment}.{gain.task}.{key}": getattr(gain, key) for key in ("ne", "gain", "low", "high")}
    for speed in speeds:
        name = f"{speed.experiment}.{speed.segment}.{speed.stage}"
        metrics |= {f"{name}.{key}": getattr(speed, key) for key in ("users_per_second", "gain", "low", "high")}
    figures = {}
    for task in dict.fromkeys(gain.task for gain in gains):
        total = [gain for gain in gains if gain.segment == policies.TOTAL and gain.task == task]
        gained = policies.convergence(lines, against, task)
        series = {name: (part["epoch"].to_numpy(), part["gain"].to_numpy()) for name, part in gained.groupby("experiment", sort=False)}
        figures[f"compare_policies/convergence_{task}.png"] = curves(series, "epoch", f"{task}: NE gain on validation")
        heights = {gain.experiment: gain.gain for gain in total}
        spread = {gain.experiment: (gain.low, gain.high) for gain in total}
        figures[f"compare_policies/gain_{task}.png"] = bars(heights, spread, f"{task}: NE gain", total[0].experiment)
    for stage in dict.fromkeys(speed.stage for speed in speeds):
        total = [speed for speed in speeds if speed.segment == policies.TOTAL and speed.stage == stage]  # type: ignore[misc]
        heights = {speed.experiment: speed.gain for speed in total}
        spread = {speed.experiment: (speed.low, speed.high) for speed in total}
        figures[f"compare_policies/{stage}.png"] = bars(heights, spread, f"{stage}: more users per CPU second", total[0].experiment)
    tables = [pd.DataFrame(rows).to_string(index=False, float_format="%.4f") for rows in (gains, speeds)]
    return metrics, figures, "\n\n".join(tables)

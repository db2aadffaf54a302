"""The tables and the picture of docs/benchmarks/ranking_tasks.md, from results/ranking_tasks.json; benchmarks/readme.py writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alure_spark.plots import distributions

PICTURE = "ranking_tasks_entanglement.png"
Row = Mapping[str, Any]


def ranking_tasks_text(result: Mapping[str, Any]) -> str:
    """Per world a table of pairs of schemes and tasks, the null twin beside it; then the contradictory pairs under each embedding."""
    parts = []
    planted = [row for row in result["rows"] if row["set"] == "schemes"]
    for world in dict.fromkeys(row["world"] for row in planted):
        parts += [f"**{world}**", "", *_schemes([row for row in planted if row["world"] == world]), ""]
    rows = [row for row in result["rows"] if row["set"] == "entanglement"]
    if rows:
        parts += [*_contradictory(rows), "", f"![Distances of contradictory pairs, first seed]({PICTURE})"]
    return "\n".join(parts).rstrip()


def _contradictory(rows: list[Row]) -> list[str]:
    """The mean distance under each embedding, by seed."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    share = sum(row["contradictory"] for row in rows) / sum(row["pairs"] for row in rows)
    lines = [
        f"By models of one task each, {share:.0%} of the pairs are near in `click` and far in `conversion`. How far apart they are, "
        "0 being the nearest of all pairs and 100 the farthest:",
        "",
        f"| model | embedding | {' | '.join(f'seed {seed}' for seed in seeds)} |",
        "|---|---|" + "---|" * len(seeds),
    ]
    distance = {(row["model"], row["embedding"], row["seed"]): row["distance"] for row in rows}
    for model, name in dict.fromkeys((row["model"], row["embedding"]) for row in rows):
        lines.append(f"| {model} | {name} | {' | '.join(f'{distance[model, name, seed]:.0f}' for seed in seeds)} |")
    return lines


def _schemes(rows: list[Row]) -> list[str]:
    null = {(row["task"], row["with"], row["without"]): row for row in rows if row["null"]}
    lines = [
        "| task (share of positives) | with | without | NE with | NE without | least possible | gain | 95 % interval | single seeds "
        "| in the null twin | parameters |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted((row for row in rows if not row["null"]), key=lambda row: ("rate" not in row, row["task"])):
        twin = null[row["task"], row["with"], row["without"]]
        cells = [f"{row['task']} ({row['rate']:.1%})" if "rate" in row else row["task"], _named(row), row["without"]]
        cells += [f"{row[key]:.3f}" if key in row else "" for key in ("ne_with", "ne_without", "ne_best")]
        cells += [f"{row['gain']:+.1%}", f"{row['low']:+.1%} to {row['high']:+.1%}"]
        cells += [f"{row['gain_min']:+.1%} to {row['gain_max']:+.1%}" if "gain_min" in row else ""]
        cells += [f"{twin['gain']:+.1%} ({twin['low']:+.1%} to {twin['high']:+.1%}){_weight(twin)}"]
        cells += [f"{row['parameters_with']:,} / {row['parameters_without']:,}" if "parameters_with" in row else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _named(row: Row) -> str:
    return f"{row['with']}{_weight(row)}"


def _weight(row: Row) -> str:
    """Of the auxiliary loss, where one was chosen."""
    return f", weight {row['auxiliary_weight']:g}" if "auxiliary_weight" in row else ""


def entanglement_picture(result: Mapping[str, Any]) -> Figure:
    """As jobs/analyse_entanglement.py draws it, from the counts of the first seed."""
    panels: dict[str, dict[str, np.ndarray]] = {}
    rows = [row for row in result["rows"] if row["set"] == "entanglement"]
    for row in rows:
        if row["seed"] == rows[0]["seed"]:
            steps = len(row["counts"])
            middles = (np.arange(steps) + 0.5) * 100 / steps
            panels.setdefault(row["model"], {})[row["embedding"]] = np.repeat(middles, row["counts"])
    return distributions(panels, "pairs near in click, far in conversion: % of all pairs that are nearer")


def ranking_task_quality_text(result: Mapping[str, Any]) -> str:
    """A table per set and task: each scheme, and what it differs by from the model of that task alone."""
    seeds = result.get("size", {}).get("seeds", [])
    parts = [f"Fits per model: {len(seeds)} (seed {', '.join(map(str, seeds))}).", ""]
    for name, task in dict.fromkeys((row["set"], row["task"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["set"], row["task"]) == (name, task)]
        parts += [
            f"**{name}, {task}** ({rows[0]['rate']:.1%} positives)",
            "",
            "| model | parameters | AUC | NE | minus single task, AUC | minus single task, NE |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            cells = [row["model"], f"{row['parameters']:,}" if row["parameters"] else "", f"{row['auc']:.4f}", f"{row['ne']:.4f}"]
            for key in ("auc", "ne"):
                spread = f" ({row[f'{key}_low']:+.4f} to {row[f'{key}_high']:+.4f})" if f"{key}_low" in row else ""
                cells.append(f"{row[f'{key}_minus_single']:+.4f}{spread}" if spread else "")
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts).rstrip()

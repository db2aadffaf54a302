"""The tables of docs/benchmarks/ranking_losses.md from the rows of benchmarks/ranking_losses.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]


def text(result: dict[str, Any]) -> str:
    """Losses in sparse worlds; the world in which ads tire, and its null twin; ebnerd, where it was measured."""
    of = {name: [row for row in result["rows"] if row["set"] == name] for name in ("sparse", "repeats", "ebnerd")}
    parts = [_sparse(of["sparse"])]
    for null, title in ((False, "In the world in which ads tire:"), (True, "In its null twin, in which they do not:")):
        parts.append([title, "", *_exposures([row for row in of["repeats"] if row["null"] == null], served=True)])
    if of["ebnerd"]:
        parts.append(["On ebnerd, articles in view:", "", *_exposures(of["ebnerd"], served=False)])
        parts.append(_by_number(of["ebnerd"]))
    return "\n".join(line for part in parts for line in ["", *part])[1:]


def _sparse(rows: Rows) -> list[str]:
    twins = {(row["world"], row["loss"]): row for row in rows if row["null"]}
    lines = [
        "| clicks | loss | NE | least possible | AUC | gain over bce | 95 % interval | gain in the null twin "
        "| gradient of negatives, first epoch | best epoch | alpha | learning rate |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["null"]:
            continue
        twin = twins.get((row["world"], row["loss"]))
        null = f"{twin['gain']:+.2%} ({twin['low']:+.2%} to {twin['high']:+.2%})" if twin and row["loss"] != "bce" else ""
        compared = [f"{row['gain']:+.2%}", f"{row['low']:+.2%} to {row['high']:+.2%}"] if row["loss"] != "bce" else ["", ""]
        alpha = "" if row["alpha"] is None else f"{row['alpha']:g}"
        cells = [row["world"], row["loss"], f"{row['ne']:.4f}", f"{row['ne_best']:.4f}", f"{row['auc']:.4f}", *compared, null]
        cells += [f"x {row['multiple_first']:.1f}", f"x {row['multiple_last']:.1f}", alpha, f"{row['rate']:g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _exposures(rows: Rows, served: bool) -> list[str]:
    """served: whether the models were calibrated, so that there is a second half."""
    head = [
        "model",
        "NE",
        "gain over neither",
        "predicted / observed, first exposures",
        "the same, repeats",
        "score of repeats / that of fields",
    ]
    names = ["calibration_first_raw", "calibration_repeats_raw", "score_repeats_raw"]
    if served:
        head += ["calibrated: first exposures", "calibrated: repeats", "calibrated: score of repeats / that of fields"]
        names += ["calibration_first_served", "calibration_repeats_served", "score_repeats_served"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["model"], f"{row['ne']:.4f}", "" if row["model"] == "neither" else _interval(row, "gain", "+.2%")]
        lines.append(f"| {' | '.join([*cells, *(_interval(row, name, '.3f') for name in names)])} |")
    return lines


def _by_number(rows: Rows) -> list[str]:
    """Rates by the number of the exposure: the observed ones, then each model's."""
    count = len(rows[0]["observed"])
    names = [*map(str, range(1, count)), f"{count} and more"]
    lines = [f"| exposure | {' | '.join(names)} |", f"|---{'|---' * count}|"]
    lines.append(f"| articles in view | {' | '.join(f'{number:,}' for number in rows[0]['impressions'])} |")
    lines.append(f"| observed | {' | '.join(map(_share, rows[0]['observed']))} |")
    return [*lines, *(f"| {row['model']} | {' | '.join(map(_share, row['predicted']))} |" for row in rows)]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(row: dict[str, Any], name: str, kind: str) -> str:
    low, high = ("low", "high") if name == "gain" else (f"{name}_low", f"{name}_high")
    return f"{row[name]:{kind}} ({row[low]:{kind}} to {row[high]:{kind}})"

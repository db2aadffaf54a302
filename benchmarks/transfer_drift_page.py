"""Words, tables and the picture of docs/benchmarks/transfer_drift.md, from the results of benchmarks.transfer_drift."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alure_spark.plots import curves
from benchmarks.transfer_drift import HELD, KEPT, KINDS, MAPPED, NONE, RAW, TURNED, TURNED_ANEW

WHOLE = next(iter(KINDS))
PICTURE = "transfer_drift.png"


def _rows(result: dict[str, Any], reads: str = WHOLE, null: bool = False) -> dict[str, dict[str, Any]]:
    return {row["road"]: row for row in result["rows"] if row["set"] == "roads" and row["reads"] == reads and row["null"] == null}


def _gap(row: dict[str, Any], key: str) -> str:
    """A gain and its interval, in percent of NE; empty against itself."""
    if f"over_{key}" not in row:
        return ""
    gain, low, high = (100 * row[f"over_{key}{end}"] for end in ("", "_low", "_high"))
    return f"{gain:+.2f} ({low:+.2f} to {high:+.2f})"


def _said(row: dict[str, Any], key: str) -> str:
    gain, low, high = (row[f"over_{key}{end}"] for end in ("", "_low", "_high"))
    what = "better" if low > 0 else "worse" if high < 0 else "not clearly different"
    return f"{what} ({gain:+.1%} of NE, {low:+.1%} to {high:+.1%})"


def drift_text(result: dict[str, Any]) -> str:
    """What follows from the figures in sentences, a table of all roads, and one of how far versions lie apart."""
    rows, null, size = _rows(result), _rows(result, null=True), result["size"]
    lines = [
        f"- A new version read as it is, compared with no representations at all: {_said(rows[RAW], 'none')}.",
        f"- The new version, turned, compared with the same read as it is: {_said(rows[TURNED], 'raw')}; with no representations: "
        f"{_said(rows[TURNED], 'none')}.",
        f"- The old version, run every day, compared with the new one, turned: {_said(rows[HELD], 'turned')}; its last rows, which nobody "
        f"makes anew: {_said(rows[KEPT], 'turned')}.",
        f"- Training the downstream model anew every day, on turned rows, compared with leaving it as it is: "
        f"{_said(rows[TURNED_ANEW], 'turned')}.",
        f"- Any matrix instead of a rotation: {_said(rows[MAPPED], 'turned')}.",
        f"- Null twin: the turned version compared with no representations is {_said(null[TURNED], 'none')}, the new one as it is "
        f"{_said(null[RAW], 'none')}.",
        "",
        f"{len(size['seeds'])} worlds of {size['users']:,} users, {size['days']} days. NE is the mean over worlds and days; gains are in "
        "percent of it, with 95 % intervals over the users of all worlds, the same draws for both sides.",
        "",
        "| reads | road | NE | of day 1 | of the last day | over no representations | over the new version, turned |",
        "|---|---|---|---|---|---|---|",
    ]
    for reads in KINDS:
        for null_twin in (False, True):
            for road, row in _rows(result, reads, null_twin).items():
                by_day, what = row["ne_by_day"], f"{reads} (null twin)" if null_twin else reads
                cells = [f"{row['ne']:.4f}", f"{by_day[0]:.4f}", f"{by_day[-1]:.4f}", _gap(row, "none"), _gap(row, "turned")]
                lines.append(f"| {what} | {road} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_residual_lines(result)])


def _residual_lines(result: dict[str, Any]) -> list[str]:
    """How far what was read on a day lies from what was read the day before."""
    kinds = {"user": "UR", "item": "IR", "cross": "CR"}
    by = {(row["road"], row["kind"]): row for row in result["rows"] if row["set"] == "residuals"}
    lines = [
        "How far what is read on a day lies from what was read the day before: the root of the squared distances over that of the "
        "distances to the mean, of rows that the fit had not seen. 1 is no better than the same vector for everybody.",
        "",
        "| | " + " | ".join(f"{name} (most)" for name in kinds.values()) + " |",
        "|---" * (1 + len(kinds)) + "|",
    ]
    for road in (RAW, TURNED, MAPPED):
        cells = [f"{by[road, kind]['residual']:.2f} ({by[road, kind]['most']:.2f})" for kind in kinds]
        lines.append(f"| {road} | {' | '.join(cells)} |")
    return lines


def drift_figure(result: dict[str, Any]) -> Figure:
    """NE by day of every road that reads all representations, and of none."""
    rows = _rows(result)
    days = np.arange(1, len(rows[NONE]["ne_by_day"]) + 1)
    series = {road: (days, np.array(row["ne_by_day"])) for road, row in rows.items() if road != MAPPED}
    return curves(series, "day", "NE of the downstream model")

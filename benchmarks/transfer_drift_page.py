"""Words, tables and the picture of docs/benchmarks/transfer_drift.md, from the results of benchmarks.transfer_drift."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alure_spark.plots import curves
from benchmarks.transfer_drift_roads import ALL, ANEW, HELD, KEPT, KINDS, LINEAR, NONE, RAW, TURNED, WARM

WHOLE = next(iter(KINDS))
PICTURE = "transfer_drift.png"
Rows = dict[str, dict[str, Any]]


def _rows(result: dict[str, Any], reads: str = WHOLE, null: bool = False) -> Rows:
    return {row["road"]: row for row in result["rows"] if row["set"] == "roads" and row["reads"] == reads and row["null"] == null}


def _gap(row: dict[str, Any], key: str) -> str:
    """A gain and its interval, in percent of NE; empty against itself."""
    if f"over_{key}" not in row:
        return ""
    gain, low, high = (100 * row[f"over_{key}{end}"] for end in ("", "_low", "_high"))
    return f"{gain:+.2f} ({low:+.2f} to {high:+.2f})"


def _said(row: dict[str, Any], key: str) -> str:
    """ "Better" is said only where the whole interval is above 0."""
    gain, low, high = (row[f"over_{key}{end}"] for end in ("", "_low", "_high"))
    what = "better" if low > 0 else "worse" if high < 0 else "not clearly different"
    return f"{what} ({gain:+.1%}, {low:+.1%} to {high:+.1%})"


def drift_text(result: dict[str, Any]) -> str:
    """What follows from the figures in sentences, a table of all roads, and one of how far versions lie apart."""
    rows, null, size = _rows(result), _rows(result, null=True), result["size"]
    lines = [
        "All representations together:",
        "",
        f"- The new version as it is, compared with no representations: {_said(rows[RAW], 'none')}; a new version that goes on "
        f"from the old one: {_said(rows[WARM], 'none')}.",
        f"- Compared with the new version as it is: rotated {_said(rows[TURNED], 'raw')}, by a matrix {_said(rows[LINEAR], 'raw')}; the "
        f"matrix compared with the rotation: {_said(rows[LINEAR], 'rotated')}.",
        f"- Compared with the new version by a matrix: the old version run every day {_said(rows[HELD], 'linear')}, its last rows "
        f"{_said(rows[KEPT], 'linear')}, a new version that goes on from the old one {_said(rows[WARM], 'linear')}.",
        f"- Compared with a downstream model that is left as it is: one that is trained every day on the new version by a matrix "
        f"{_said(rows[LINEAR + ANEW], 'linear')}.",
        f"- Null twin, compared with no representations: the new version as it is {_said(null[RAW], 'none')}, by a matrix "
        f"{_said(null[LINEAR], 'none')}, the old version run every day {_said(null[HELD], 'none')}.",
        "",
        "One kind alone, compared with the old version's last rows:",
        "",
    ]
    for reads in list(KINDS)[1:]:
        its = _rows(result, reads)
        lines.append(f"- **{reads}**: rotated {_said(its[TURNED], 'kept')}, by a matrix {_said(its[LINEAR], 'kept')}.")
    lines += [
        "",
        f"{len(size['seeds'])} worlds of {size['users']:,} users, {size['days']} days. NE is the mean over worlds and days; gains are in "
        "percent of it, with 95 % intervals over the users of all worlds, the same draws for both sides.",
        "",
        "| reads | road | NE | of day 1 | of the last day | over no representations | over a matrix |",
        "|---|---|---|---|---|---|---|",
    ]
    for reads in KINDS:
        for null_twin in (False, True):
            for road, row in _rows(result, reads, null_twin).items():
                by_day, what = row["ne_by_day"], f"{reads} (null twin)" if null_twin else reads
                cells = [f"{row['ne']:.4f}", f"{by_day[0]:.4f}", f"{by_day[-1]:.4f}", _gap(row, "none"), _gap(row, "linear")]
                lines.append(f"| {what} | {road} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_residual_lines(result)])


def _residual_lines(result: dict[str, Any]) -> list[str]:
    """How far what was read on a day lies from what was read the day before."""
    kinds = dict(zip(ALL, ("UR", "IR", "CR"), strict=True))
    by = {(row["road"], row["kind"]): row for row in result["rows"] if row["set"] == "residuals"}
    lines = [
        "How far what is read on a day lies from what was read the day before: the root of the squared distances over that of the "
        "distances to the mean, of rows that the fit had not seen. 1 is no better than the same vector for everybody.",
        "",
        "| | " + " | ".join(f"{name} (most)" for name in kinds.values()) + " |",
        "|---" * (1 + len(kinds)) + "|",
    ]
    for road in (RAW, WARM, TURNED, LINEAR):
        cells = [f"{by[road, kind]['residual']:.2f} ({by[road, kind]['most']:.2f})" for kind in kinds]
        lines.append(f"| {road} | {' | '.join(cells)} |")
    return lines


def drift_figure(result: dict[str, Any]) -> Figure:
    """NE by day of every road that reads all representations, and of none."""
    rows = _rows(result)
    days = np.arange(1, len(rows[NONE]["ne_by_day"]) + 1)
    series = {road: (days, np.array(row["ne_by_day"])) for road, row in rows.items()}
    return curves(series, "day", "NE of the downstream model")

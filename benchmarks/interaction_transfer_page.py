"""The tables of docs/benchmarks/interaction_transfer.md from the rows of benchmarks/interaction_transfer.py."""

from __future__ import annotations

from typing import Any

from benchmarks.transfer_page import WHICH, Rows, comparisons, gain_text, range_text


def text(result: dict[str, Any]) -> str:
    """Per set of rows: what each variant gains over the same shape without copied weights, and the comparisons."""
    parts = []
    for which, title in WHICH.items():
        rows = [row for row in result["rows"] if row["rows"] == which]
        world, null = (next(row for row in rows if row["null"] == twin) for twin in (False, True))
        reading = (
            f"**{title}.** World: {world['impressions']:,} rows with {world['positives']:,} responses, least possible NE "
            f"{world['ne_best']:.4f}; null twin: {null['positives']:,} responses, {null['ne_best']:.4f}. Intervals are of 95 %."
        )
        parts += [reading, "", *_variants(rows), "", *comparisons(rows), ""]
    return "\n".join(parts[:-1])


def _variants(rows: Rows) -> list[str]:
    twins = {row["variant"]: row for row in rows if row["kind"] == "variant" and row["null"]}
    first = next(iter(twins))
    lines = [f"| the small model has | NE | gain over {first} | NE, null twin | gain, null twin | weights | of these learn |"]
    lines.append("|---" * 7 + "|")
    for row in (row for row in rows if row["kind"] == "variant" and not row["null"]):
        twin, sizes = twins[row["variant"]], [range_text(row[key]) for key in ("weights", "learning")]
        gains = ["", ""] if row["variant"] == first else [gain_text(row), gain_text(twin)]
        cells = [row["variant"], f"{row['ne']:.4f}", gains[0], f"{twin['ne']:.4f}", gains[1], *sizes]
        lines.append(f"| {' | '.join(cells)} |")
    return lines

"""The tables of docs/benchmarks/transfer.md from the rows of benchmarks/transfer.py; benchmarks/readme.py writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]
WHICH = {"all": "All rows of the later days", "cold": "Rows of advertisers in their first days"}


def text(result: dict[str, Any]) -> str:
    """Per set of rows what each variant gains over nothing, and the comparisons; then the layers among which that of the CR was chosen."""
    parts = []
    for which, title in WHICH.items():
        rows = [row for row in result["rows"] if row.get("rows") == which]
        parts += [f"**{title}**", "", _reading(rows), "", *_variants(rows), "", *comparisons(rows), ""]
    return "\n".join([*parts, *_layers([row for row in result["rows"] if row["kind"] == "layer"])])


def _reading(rows: Rows) -> str:
    """What the tables are of."""
    world, null = (next(row for row in rows if row["null"] == twin) for twin in (False, True))
    return (
        f"World: {world['impressions']:,} rows with {world['positives']:,} responses, least possible NE {world['ne_best']:.4f}; null twin: "
        f"{null['positives']:,} responses, least possible NE {null['ne_best']:.4f}. Intervals are of 95 %."
    )


def _variants(rows: Rows) -> list[str]:
    twins = {row["variant"]: row for row in rows if row["kind"] == "variant" and row["null"]}
    lines = ["| level | the ranking model reads | NE | gain over nothing | NE, null twin | gain, null twin | parameters | learning rates |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in (row for row in rows if row["kind"] == "variant" and not row["null"]):
        twin = twins[row["variant"]]
        gains = ["", ""] if row["variant"] == "nothing" else [gain_text(row), gain_text(twin)]
        rates = ", ".join(f"{rate:g}" for rate in row["rates"])
        figures = [f"{row['ne']:.4f}", gains[0], f"{twin['ne']:.4f}", gains[1]]
        cells = [row["level"], row["variant"], *figures, range_text(row["parameters"]), rates]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def comparisons(rows: Rows) -> list[str]:
    """One variant with, one without, and the same in the null twin, where there is one."""
    twins = {(row["variant"], row["without"]): row for row in rows if row["kind"] == "comparison" and row.get("null")}
    lines = [f"| with | against | gain | single seeds |{' gain, null twin |' if twins else ''}", "|---" * (5 if twins else 4) + "|"]
    for row in (row for row in rows if row["kind"] == "comparison" and not row.get("null")):
        cells = [row["variant"], row["without"], gain_text(row), seeds_text(row)]
        cells += [gain_text(twins[row["variant"], row["without"]])] if twins else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _layers(rows: Rows) -> list[str]:
    lines = ["| layer of the CR | validation loss in the worlds of other seeds | chosen |", "|---|---|---|"]
    return [*lines, *(f"| {row['layer']} | {row['validation']:.4f} | {'yes' if row['chosen'] else ''} |" for row in rows)]


def range_text(counts: Sequence[int]) -> str:
    """From the smallest to the largest."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def seeds_text(row: dict[str, Any]) -> str:
    """The smallest and the largest gain of a single seed."""
    return f"{row['gain_min']:+.2%} to {row['gain_max']:+.2%}"


def gain_text(row: dict[str, Any]) -> str:
    """With its interval."""
    return f"{row['gain']:+.2%} ({row['low']:+.2%} to {row['high']:+.2%})"

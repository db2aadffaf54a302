"""The tables of docs/benchmarks/standalone_retrieval.md from the rows of benchmarks/standalone_retrieval.py."""

from __future__ import annotations

from typing import Any


def text(result: dict[str, Any]) -> str:
    """Per world: recall of each method alone, then what each head adds to each base at equal size of the pool."""
    parts = []
    for world in dict.fromkeys(row["set"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["set"] == world]
        parts += [*_alone(world, rows, result["size"]["k"]), "", *_added(world, rows, result["size"]["pools"]), ""]
    return "\n".join(parts[:-1])


def _alone(world: str, rows: list[dict[str, Any]], ks: list[int]) -> list[str]:
    first = rows[0]
    engaged = ", ".join(f"{count:,} ({reads})" for reads, count in first["engagements"].items())
    lines = [
        f"World `{world}`, alone: {first['users']:,} users engage later; {first['ads']:,} active ads; heads learn from {engaged} clicks.",
        "",
        f"| method | {' | '.join(f'recall@{k}' for k in ks)} |",
        "|---" * (len(ks) + 1) + "|",
    ]
    for row in rows:
        if row["part"] == "alone":
            lines.append(f"| {row['method']} | {' | '.join(format(row[f'recall_{k}'], '.3f') for k in ks)} |")
    return lines


def _added(world: str, rows: list[dict[str, Any]], pools: list[int]) -> list[str]:
    added = {(row["base"], row["source"], row["pool"]): row for row in rows if row["part"] == "added"}
    lines = [f"World `{world}`, what one more source adds to the recall of a pool of {' and '.join(map(str, pools))} ads:", ""]
    head = ["pool of", "one more source", *(name for size in pools for name in (f"recall in {size} without", "gain"))]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for base, source in dict.fromkeys((base, source) for base, source, _ in added):
        cells = []
        for size in pools:
            row = added[base, source, size]
            cells += [f"{row['recall']:.3f}", f"{row['gain']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"]
        lines.append(f"| {base} | {source} | {' | '.join(cells)} |")
    return lines

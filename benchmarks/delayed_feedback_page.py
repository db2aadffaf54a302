"""The tables of docs/benchmarks/delayed_feedback.md."""

from __future__ import annotations

from typing import Any


def delayed_feedback_text(result: dict[str, Any]) -> str:
    """One row per way of feeding, in the world with bursts and in its null twin."""
    lines = []
    for null, heading in ((False, "Half of the accounts report in bursts"), (True, "Null twin: nobody does")):
        lines += [
            f"**{heading}**", "",
            "| fed | hours waited: bursts / others | bias: bursts | others | divergence, millinats: bursts | others | learning rate |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in result["rows"]:
            if row["null"] == null:
                waited = f"{row['wait_hours_bursts']:.0f} / {row['wait_hours_steady']:.0f}"
                cells = [
                    _beside(row, f"{what}_{kind}", by) for what, by in (("bias", 1), ("divergence", 1000)) for kind in ("bursts", "steady")
                ]
                lines.append(f"| {row['feed']} | {waited} | {' | '.join(cells)} | {row['rate']:g} |")
        lines.append("")
    return "\n".join(lines[:-1])


def _beside(row: dict[str, Any], name: str, by: float) -> str:
    """A figure, and how much more it is than ours with its interval."""
    text = f"{row[name] * by:.3f}"
    if f"{name}_more" not in row:
        return f"**{text}**"
    more, low, high = (row[f"{name}_{part}"] * by for part in ("more", "low", "high"))
    return f"{text} ({more:+.3f}: {low:+.3f} to {high:+.3f})"

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


def delayed_returns_text(result: dict[str, Any]) -> str:
    """One row per way of feeding, on real returns and in their null twin."""
    size = result["size"]
    within = f"half of these within {size['delay_median_days']:.1f} days, nine in ten within {size['delay_90_days']:.0f}"
    lines = [f"{size['purchases']:,} purchases, {size['returned']:,} of them returned: {within}.", ""]
    for null, heading in ((False, "Returns as they came"), (True, "Null twin: delays drawn anew")):
        lines += [
            f"**{heading}**", "", "| fed | days waited, mean | normalized entropy | expected / observed returns | learning rate |",
            "|---|---|---|---|---|",
        ]  # fmt: skip
        for row in result["rows"]:
            if row["null"] == null:
                cells = [row["feed"], f"{row['wait_days']:.1f}", _beside(row, "ne", 1), f"{row['calibration']:.3f}", f"{row['rate']:g}"]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines[:-1])

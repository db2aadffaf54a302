"""The tables of docs/benchmarks/ranking_values.md, from results/ranking_values.json and ranking_value_quality.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def ranking_values_text(result: Mapping[str, Any]) -> str:
    """Per world a table of models, and one of differences."""
    size = result["size"]
    seeds = ", ".join(map(str, size["seeds"]))
    count = f"{size['users']} users and {size['ads']} ads, {len(size['seeds'])} seeds ({seeds})"
    parts = [f"{count}; 30 % of the impressions are evaluated.", ""]
    for world in dict.fromkeys(row["world"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["world"] == world]
        about = f"{rows[0]['impressions']:,} impressions, {rows[0]['positive']:.1%} of the values above 0"
        parts += [f"**{world}** ({about})", "", *_models(rows), "", *_differences(rows), ""]
    return "\n".join(parts).rstrip()


def _models(rows: list[Row]) -> list[str]:
    lines = [
        "| model | Gini | error | decile error | expected / observed | correlation with the true mean (logs) | rate | parameters |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["set"] == "models":
            cells = [row["model"], f"{row['gini']:.3f}", f"{row['rmse']:.3f}", f"{row['decile_error']:.3f}", f"{row['calibration']:.3f}"]
            cells += [f"{row['correlation']:.3f}" if row.get("correlation") is not None else ""]
            cells += [f"{row['rate']:g}", f"{row['parameters']:,}"] if "rate" in row else ["", ""]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _differences(rows: list[Row]) -> list[str]:
    lines = [
        "| model | minus | Gini | 95 % interval | single seeds | error | 95 % interval | single seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["set"] == "differences":
            cells = [row["model"], row["minus"]]
            for key in ("gini", "rmse"):
                cells += [f"{row[key]:+.3f}", *(_span(row, key, ends) for ends in (("low", "high"), ("min", "max")))]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _span(row: Row, key: str, ends: tuple[str, str]) -> str:
    return " to ".join(f"{row[f'{key}_{end}']:+.3f}" for end in ends)


def ranking_value_quality_text(result: Mapping[str, Any]) -> str:
    """Methods on completejourney, and what the ranking model differs by."""
    size = result["size"]
    lines = [
        f"{size['tested']:,} later sends of {size['households']:,} households, of which {size['positive']:.0%} bought a product of the "
        f"campaign, for {size['mean']:.0f} dollars in the mean of all; {len(size['seeds'])} fits per method, whose mean is evaluated.",
        "",
        "| method | chosen | Gini | error | expected / observed | decile error | ranking model minus it: Gini | and error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [row["road"], row["chosen"], f"{row['gini']:.3f}", f"{row['rmse']:.3f}", f"{row['calibration']:.2f}"]
        cells += [f"{row['decile_error']:.2f}"]
        for key in ("gini", "rmse"):
            name = f"ours_minus_{key}"
            cells.append(f"{row[name]:+.3f} ({row[f'{name}_low']:+.3f} to {row[f'{name}_high']:+.3f})" if name in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

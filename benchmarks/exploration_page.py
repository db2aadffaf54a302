"""Words, tables and the picture of docs/benchmarks/exploration.md, from the results of benchmarks.exploration and benchmarks.off_policy."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alure_spark.plots import curves

WORLDS = {
    "cold": "new ads", "few": "new ads, a fifth of the requests", "known": "no new ads (twin)", "equal": "all ads equal (null twin)",
}  # fmt: skip
THOMPSON, BEST = "Thompson", "best item of the first half"


def listed(names: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def exploration_text(result: dict[str, Any]) -> str:
    """What Thompson gains or costs in each world in a sentence, and a table of all policies."""
    size, lines = result["size"], []
    for world, title in WORLDS.items():
        rows = [row for row in result["rows"] if row["world"] == world]
        lines += [f"- **{title}**: {_verdict(rows)}"] if rows else []
    lines += [
        "",
        f"{len(size['seeds'])} worlds of a kind ({rows[0]['seeds']} of the last), {size['days']} days. Value: expected clicks of what was "
        "shown, mean over the worlds.",
        "",
        "| world | policy | its dial | value | regret | Thompson minus this | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        gap = f"{row['thompson_minus']:+.1f} | {row['low']:+.1f} to {row['high']:+.1f}" if "low" in row else " | "
        lines.append(f"| {WORLDS[row['world']]} | {row['road']} | {row['dial']:g} | {row['value']:,.0f} | {row['regret']:,.0f} | {gap} |")
    return "\n".join(lines)


def _verdict(rows: list[dict[str, Any]]) -> str:
    """ "Better" is said only where the whole interval is above 0."""
    own = next(row for row in rows if row["road"] == THOMPSON)
    if all(row["value"] == own["value"] for row in rows):
        return "all policies earn the same to the last digit, as they must: exploration gains nothing here, and costs nothing."
    said: dict[str, list[str]] = {"better than": [], "worse than": [], "not clearly different from": []}
    for row in rows:
        if row is not own:
            gap, low, high = (row[key] / row["value"] for key in ("thompson_minus", "low", "high"))
            kind = "better than" if low > 0 else "worse than" if high < 0 else "not clearly different from"
            said[kind].append(f"{row['road']} ({gap:+.1%}, {low:+.1%} to {high:+.1%})")
    return f"Thompson is {'; '.join(f'{what} {listed(names)}' for what, names in said.items() if names)}."


def off_policy_text(result: dict[str, Any]) -> str:
    """What is better than the log and than the best fixed item, and a table per log of the value of each policy."""
    rows = result["rows"]
    empty = [row["set"] for row in rows if row["road"] == BEST and not row["alike_clicks"]]
    lines = [f"- Better than showing items at random, as the log does: {_better(rows, 'logged', [])}."]
    if compared := [name for name in dict.fromkeys(row["set"] for row in rows) if name not in empty]:
        lines.append(f"- Better than the best item of the first half, on {listed(compared)}: {_better(rows, 'best', empty)}.")
    if empty:
        lines.append(
            f"- On {listed(empty)} the best item of the first half got no click in the second, so that nothing can be said against it."
        )
    lines += [
        "",
        "| log (clicks in its second half) | policy | impressions alike (clicks) | IPS | DR | DR minus as logged | DR minus best item |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row['alike']:,.0f} ({row['alike_clicks']:.1f})"]
        cells += [f"{row[kind]:.1f} ({row[f'{kind}_low']:.1f} to {row[f'{kind}_high']:.1f})" for kind in ("ips", "dr")]
        for key in ("dr_minus_logged", "dr_minus_best"):
            cells.append(f"{row[key]:+.1f} ({row[f'{key}_low']:+.1f} to {row[f'{key}_high']:+.1f})" if key in row else "")
        lines.append(f"| {row['set']} ({row['clicks']}) | {row['road']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _better(rows: list[dict[str, Any]], than: str, without: list[str]) -> str:
    """The policies whose whole interval is above, by either estimator."""
    found = [
        f"{row['road']} on {row['set']} by {kind.upper()}"
        for row in rows
        for kind in ("ips", "dr")
        if row["set"] not in without and row.get(f"{kind}_minus_{than}_low", -1.0) > 0
    ]
    return listed(found) or "nothing, on no log, by neither estimator"


def regret_figure(result: dict[str, Any], world: str = "cold") -> Figure:
    """Regret so far by day of each policy that learns."""
    rows = [row for row in result["rows"] if row["world"] == world and row["road"] != "greedy, nothing learnt"]
    days = {row["road"]: np.arange(1, len(row["regret_by_day"]) + 1) for row in rows}
    series = {row["road"]: (days[row["road"]], np.array(row["regret_by_day"])) for row in rows}
    return curves(series, "day", "regret so far, expected clicks")

"""The tables of docs/benchmarks/transfer_real.md from the rows of benchmarks/transfer_real.py, each with the sentence that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.transfer_page import Rows, gain_text

SETS = {
    "online_retail": "online_retail: from the United Kingdom to other countries",
    "completejourney": "completejourney: from purchases to redemptions",
}
WHICH = {"all": "all rows after the cut", "cold": "rows of products in their first days abroad"}
NOTHING = "nothing"


def text(result: dict[str, Any]) -> str:
    """Per set and its sets of rows: what each variant gains over nothing, and the comparisons."""
    parts = []
    for name, title in SETS.items():
        rows = [row for row in result["rows"] if row["set"] == name]
        if not rows:
            continue
        parts += [f"## {title}", "", _layer(rows), ""]
        for which, of in WHICH.items():
            its = [row for row in rows if row.get("rows") == which]
            for table in (_variants, _comparisons):
                parts += [*table(its, of), ""] if its else []
    return "\n".join(parts[:-1])


def _layer(rows: Rows) -> str:
    layers = [row for row in rows if row["kind"] == "layer"]
    (chosen,) = (row["layer"] for row in layers if row["chosen"])
    losses = ", ".join(f"`{row['layer']}` {row['validation']:.4f}" for row in layers)
    return f"The CR is of the layer `{chosen}`, which had the least validation loss with a seed of its own: {losses}."


def _variants(rows: Rows, of: str) -> list[str]:
    variants = [row for row in rows if row["kind"] == "variant"]
    first = variants[0]
    head = f"**{of[0].upper()}{of[1:]}**: {first['impressions']:,} with {first['positives']:,} responses, over all seeds. "
    lines = [head + reading({row["variant"]: row for row in variants if row["variant"] != NOTHING}, "over `nothing`"), ""]
    lines += ["| the ranking model reads | NE | gain over nothing | single seeds | parameters | learning rates |", "|---" * 6 + "|"]
    for row in variants:
        gains = ["", ""] if row["variant"] == NOTHING else [gain_text(row), _seeds(row)]
        cells = [row["variant"], f"{row['ne']:.4f}", *gains, _range(row["parameters"]), ", ".join(f"{rate:g}" for rate in row["rates"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def module_text(result: dict[str, Any]) -> str:
    """Per set of rows of the module level: what each variant gains over the same shape drawn anew, and the comparisons."""
    parts = []
    for which, of in WHICH.items():
        rows = [row for row in result["rows"] if row["rows"] == which]
        parts += [*_modules(rows, of), "", *_comparisons(rows, of), ""] if rows else []
    return "\n".join(parts[:-1])


def _modules(rows: Rows, of: str) -> list[str]:
    first, *variants = (row for row in rows if row["kind"] == "variant")
    head = f"**{of[0].upper()}{of[1:]}**: {first['impressions']:,} with {first['positives']:,} responses, over all seeds. "
    lines = [head + reading({row["variant"]: row for row in variants}, f"over {first['variant']}"), ""]
    lines += [f"| the small model has | NE | gain over {first['variant']} | single seeds | weights | of these learn |", "|---" * 6 + "|"]
    for row in (first, *variants):
        gains = ["", ""] if row is first else [gain_text(row), _seeds(row)]
        sizes = [_range(row[key]) for key in ("weights", "learning")]
        cells = [row["variant"], f"{row['ne']:.4f}", *gains, *sizes]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _comparisons(rows: Rows, of: str) -> list[str]:
    pairs = [row for row in rows if row["kind"] == "comparison"]
    named = {f"`{row['variant']}` against `{row['without']}`": row for row in pairs}
    lines = [f"One against another, {of}. {reading(named, '', quoted=False)}", ""]
    lines += ["| with | against | gain | single seeds |", "|---|---|---|---|"]
    return [*lines, *(f"| {row['variant']} | {row['without']} | {gain_text(row)} | {_seeds(row)} |" for row in pairs)]


def reading(rows: dict[str, dict[str, Any]], over: str, quoted: bool = True) -> str:
    """One sentence: which of the rows gain, which lose, and of which no difference can be seen, with what could have been."""
    names = {name: f"`{name}`" if quoted else name for name in rows}
    parts, level = [], [name for name, row in rows.items() if row["low"] <= 0 <= row["high"]]
    for what, sign in (("gain", 1), ("loss", -1)):
        those = {name: row for name, row in rows.items() if name not in level and sign * row["gain"] > 0}
        if those:
            parts.append(_joined(f"a {what}", over, "is seen of", _list([names[name] for name in those])))
            mixed = [names[name] for name, row in those.items() if row["gain_min"] * row["gain_max"] <= 0]
            parts[-1] += f" (not in every seed{'' if len(mixed) == len(those) else f' of {_list(mixed)}'})" if mixed else ""
    if level:
        seen = max(half_width(rows[name]) for name in level)
        said = _joined("no difference", over, "is seen of", _list([names[name] for name in level]))
        parts.append(f"{said}, where one of {seen:.2%} would have been")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _joined(*words: str) -> str:
    return " ".join(filter(None, words))


def half_width(row: dict[str, Any]) -> float:
    """Of the interval: what a gain must be above, about, to be seen."""
    width: float = (row["high"] - row["low"]) / 2
    return width


def _seeds(row: dict[str, Any]) -> str:
    return f"{row['gain_min']:+.2%} to {row['gain_max']:+.2%}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

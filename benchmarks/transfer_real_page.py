"""The tables of docs/benchmarks/transfer_real.md from the rows of benchmarks/transfer_real.py, each with the sentence that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.transfer_page import Rows, comparisons, gain_text, range_text, seeds_text

SETS = {
    "online_retail": "online_retail: from the United Kingdom to other countries",
    "completejourney": "completejourney: from purchases to redemptions",
}
WHICH = {"all": "all rows after the cut", "cold": "rows of products in their first days abroad"}


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
    sizes = {
        "parameters": lambda row: range_text(row["parameters"]),
        "learning rates": lambda row: ", ".join(f"{rate:g}" for rate in row["rates"]),
    }  # fmt: skip
    return _table(rows, of, "the ranking model reads", "`nothing`", sizes)


def module_text(result: dict[str, Any]) -> str:
    """Per set of rows of the module level: what each variant gains over the same shape drawn anew, and the comparisons."""
    parts = []
    sizes = {"weights": lambda row: range_text(row["weights"]), "of these learn": lambda row: range_text(row["learning"])}
    for which, of in WHICH.items():
        rows = [row for row in result["rows"] if row["rows"] == which]
        parts += [*_table(rows, of, "the small model has", rows[0]["variant"], sizes), "", *_comparisons(rows, of), ""] if rows else []
    return "\n".join(parts[:-1])


def _table(rows: Rows, of: str, what: str, over: str, sizes: Mapping[str, Callable[[dict[str, Any]], str]]) -> list[str]:
    """A sentence, and a line per variant; all are compared with the first. over: what the sentence calls it; sizes: further columns."""
    first, *variants = (row for row in rows if row["kind"] == "variant")
    head = f"**{of[0].upper()}{of[1:]}**: {first['impressions']:,} with {first['positives']:,} responses, over all seeds. "
    lines = [head + reading({row["variant"]: row for row in variants}, f"over {over}"), ""]
    columns = [what, "NE", f"gain over {first['variant']}", "single seeds", *sizes]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in (first, *variants):
        gains = ["", ""] if row is first else [gain_text(row), seeds_text(row)]
        cells = [row["variant"], f"{row['ne']:.4f}", *gains, *(said(row) for said in sizes.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _comparisons(rows: Rows, of: str) -> list[str]:
    named = {f"`{row['variant']}` against `{row['without']}`": row for row in rows if row["kind"] == "comparison"}
    return [f"One against another, {of}. {reading(named, '', quoted=False)}", "", *comparisons(rows)]


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


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

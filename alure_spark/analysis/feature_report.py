"""What a behaviour says of the response, and what the model makes of it, as a person reads it: heat maps and the strongest cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..batches.vocabulary import Vocabulary
from ..clock import DAY_MS, HOUR_MS, MINUTE_MS
from ..events.clean import id_hash
from ..plots import HeatMap, heat_maps
from ..ranking.encodings.temporal_interest import INTERVALS_MS
from .feature_information import EVERY, OWN, Cells

LONGEST_LABEL, STRONGEST = 24, 20
OWN_LABEL = "the target's own category"


def duration(milliseconds: int) -> str:
    """'5 min', '2 h', '1 day', '365 days' of a whole number of them, as '1 year' where it is one."""
    if milliseconds % DAY_MS == 0:
        days = milliseconds // DAY_MS
        return "1 year" if days == 365 else f"{days} day{'s' if days > 1 else ''}"
    return f"{milliseconds // HOUR_MS} h" if milliseconds % HOUR_MS == 0 else f"{milliseconds / MINUTE_MS:g} min"


INTERVAL_LABELS = [*map(duration, INTERVALS_MS), "longer ago"]


def category_names(events: DataFrame | None, category: str, vocabulary: Vocabulary, space: str, rows: Iterable[int]) -> dict[int, str]:
    """Row -> what to call it: the raw id where an event has named it, else its hash, as `vocabularies` has it; collects one name per row.

    category: item_id or an attribute. A row that several ids share (ranking.hash_buckets) has no name.
    """
    hashes, its_rows = vocabulary.entries.get(space, (np.zeros(0, np.int64), np.zeros(0, np.int64)))
    wanted = {int(its): int(one) for one, its in zip(hashes, its_rows, strict=True) if its in set(rows)}
    raw: dict[int, str] = {}
    if events is not None and wanted and category in events.columns:
        value = F.col(category).cast("string")
        named = events.select(value.alias("name"), id_hash(value).alias("hash")).where(F.col("hash").isin(list(wanted.values())))
        raw = {row["hash"]: row["name"] for row in named.groupBy("hash").agg(F.min("name").alias("name")).collect()}
    known = {row: raw.get(one, f"hash {one}") for row, one in wanted.items()}
    return {int(row): known.get(int(row), f"ids of row {row}") for row in rows}


def feature_report(
    measured: Mapping[str, Cells], names: Mapping[str, Mapping[int, str]]
) -> tuple[dict[str, float | None], dict[str, Figure], str]:
    """(metrics, figures by file name, the strongest cells). Both mappings are by sequence; names: row -> label."""
    metrics: dict[str, float | None] = {}
    figures, texts = {}, []
    for sequence, cells in measured.items():
        told = _told(cells, names[sequence])
        for number, task in enumerate(cells.tasks):
            bits, _, high = cells.information(number)
            above = (bits > high) & cells.counted()
            for what, part in (("position", slice(0, cells.positions)), ("interval", slice(cells.positions, None))):
                figures[f"analyse_features/{sequence}_{task}_{what}.png"] = _figure(cells, number, bits, above, told, what, part)
            metrics |= {
                f"{sequence}.{task}.cells": float(cells.counted().sum()),
                f"{sequence}.{task}.cells_above_chance": float(above.sum()),
                f"{sequence}.{task}.largest_bits": float(bits.max()),
            }
            texts.append(_strongest(cells, number, bits, high, above, told, f"{sequence}, {task}"))
    return metrics, figures, "\n\n".join(texts or ["the model reads no sequence (ranking.sequences)"])


def _told(cells: Cells, names: Mapping[int, str]) -> Mapping[int, str]:
    """Labels that fit beside a picture, still different from each other."""
    short = {row: label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…" for row, label in names.items()}
    twice = pd.Series(list(short.values())).value_counts()
    return {row: names[row] if twice[label] > 1 else label for row, label in short.items()}


def _rows(cells: Cells, panel: int) -> list[int]:
    """Places of a panel's behaviours: the target's own category is not shown twice."""
    return [place for place, row in enumerate(cells.behaviours) if row == OWN or row != cells.targets[panel]]


def _place(cells: Cells, column: int) -> str:
    if column < cells.positions:
        return f"{column + 1} ago"
    longest = column == cells.positions + len(INTERVALS_MS)
    return INTERVAL_LABELS[-1] if longest else f"up to {INTERVAL_LABELS[column - cells.positions]}"


def _figure(cells: Cells, task: int, bits: np.ndarray, above: np.ndarray, told: Mapping[int, str], what: str, part: slice) -> Figure:
    """A line of panels per target: information, then the attention of each table; places where nothing happened are left out."""
    columns = range(cells.present.shape[2])[part]
    there = [column for column in columns if (cells.present[:, :, column] > 0).any()] or list(columns)[:1]
    shown = list(range(there[0], there[-1] + 1))
    labels = [str(column + 1) if what == "position" else INTERVAL_LABELS[column - cells.positions] for column in shown]
    nothing, preference = cells.present == 0, cells.preference()
    grid = []
    for panel, target in enumerate(cells.targets):
        rows = _rows(cells, panel)
        behaviours = [OWN_LABEL if cells.behaviours[row] == OWN else told[int(cells.behaviours[row])] for row in rows]
        cut = np.ix_(rows, shown)
        who = "all targets" if target == EVERY else f"target {told[int(target)]}"
        rate = cells.responses[panel, task] / max(1, cells.impressions[panel])
        title = f"{who}: {cells.impressions[panel]:,} impressions, {rate:.2%} {cells.tasks[task]}"
        values = np.where(nothing[panel], np.nan, bits[panel].clip(min=0))[cut]
        line = [HeatMap(title, values, behaviours, labels, (~above & ~nothing)[panel][cut])]
        line += [HeatMap("", preference[panel, table][cut], behaviours, labels) for table in range(len(cells.tables))]
        grid.append(line)
    titles = ["mutual information, bits (gray: may be chance; hatched: never)"]
    titles += [f"attention of table '{table}', times an equal share" for table in cells.tables]
    xlabel = "how many behaviors ago (1 is the newest)" if what == "position" else "how long ago, at most"
    return heat_maps(grid, titles, xlabel, [False, *(True for _ in cells.tables)])


def _strongest(cells: Cells, task: int, bits: np.ndarray, high: np.ndarray, above: np.ndarray, told: Mapping[int, str], title: str) -> str:
    """The cells above chance, those of most information first."""
    preference, rows = cells.preference(), []
    for panel, behaviour, column in np.argwhere(above):
        place = (panel, behaviour, column)
        with_it, both = cells.present[place], cells.responded[panel, task, behaviour, column]
        without, rest = cells.impressions[panel] - with_it, cells.responses[panel, task] - both
        target, own = cells.targets[panel], cells.behaviours[behaviour]
        row: dict[str, object] = {
            "target": "all" if target == EVERY else told[int(target)], "behavior": "own category" if own == OWN else told[int(own)],
            "when": _place(cells, column), "impressions": with_it, "rate with": both / with_it, "rate without": rest / max(1, without),
            "bits": bits[place], "chance": high[place],
        }  # fmt: skip
        for table, name in enumerate(cells.tables):
            row |= {f"weight {name}": cells.attention[panel, table, behaviour, column] / with_it}
            row |= {f"times equal {name}": preference[panel, table, behaviour, column]}
        rows.append(row)
    head = f"{title}: {len(rows)} of {int(cells.counted().sum())} cells are above chance"
    if not rows:
        return head
    best = pd.DataFrame(rows).sort_values("bits", ascending=False, kind="stable").head(STRONGEST)
    return f"{head}, the strongest:\n{best.to_string(index=False, float_format='%.4g')}"


def shown_rows(cells: Cells) -> Sequence[int]:
    """The rows of categories that a report names."""
    return [int(row) for row in np.unique(np.r_[cells.targets[1:], cells.behaviours[1:]])]

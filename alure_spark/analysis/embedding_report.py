"""Which embedding tables collapsed, before and after training, as a person reads it (Pan et al., section 7.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..plots import paired_bars, spectra
from ..ranking.network import RankingNetwork
from .embedding_spectrum import information_abundance, singular_values
from .own_tables import require_own_tables

MOST_LINES = 20  # of a panel; more cannot be told apart


def embedding_report(trained: RankingNetwork, drawn: RankingNetwork) -> tuple[dict[str, float | None], dict[str, Figure], str]:
    """(metrics, figures by file name, the table). drawn: the network before training, of the same spec.

    Holds the rows of one field as float64. Costs n K^2 per field of n rows. Raises as require_own_tables.
    """
    require_own_tables(trained.spec)
    rows, panels = [], dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]()
    before = drawn.field_rows()
    for table, fields in trained.field_rows().items():
        for name, after in fields.items():
            first, last = before[table][name].numpy(), after.numpy()
            rows.append({
                "table": table, "field": name, "rows": len(last), "moved": int((first != last).any(axis=1).sum()), "numbers": last.shape[1],
                "before": information_abundance(first), "after": information_abundance(last), "most": min(last.shape),
            })  # fmt: skip
            panels.setdefault(table, {})[name] = singular_values(first), singular_values(last)
    told = pd.DataFrame(rows)
    metrics: dict[str, float | None] = {f"{row.table}.{row.field}.information_abundance": row.after for row in told.itertuples()}
    metrics |= {f"{row.table}.{row.field}.information_abundance_before": row.before for row in told.itertuples()}
    bars = {
        f"{table} ({its['numbers'].iloc[0]} numbers a row)": {row.field: (row.before, row.after, row.most) for row in its.itertuples()}
        for table, its in told.groupby("table", sort=False)
    }
    figures = {
        "analyse_embeddings/singular_values.png": spectra(_most_collapsed(panels, told)),
        "analyse_embeddings/information_abundance.png": paired_bars(bars, "information abundance"),
    }
    return metrics, figures, _text(told)


def _most_collapsed(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], told: pd.DataFrame) -> dict[str, dict]:
    """Of each table, by title, at most MOST_LINES fields: those whose abundance is the smallest share of the most possible."""
    chosen = {}
    for table, fields in panels.items():
        its = told[told["table"] == table]
        least = set(its.loc[(its["after"] / its["most"]).sort_values(kind="stable").index[:MOST_LINES], "field"])
        title = table if len(fields) <= MOST_LINES else f"{table}: the {MOST_LINES} most collapsed of {len(fields)} fields"
        chosen[title] = {name: pair for name, pair in fields.items() if name in least}
    return chosen


def _text(told: pd.DataFrame) -> str:
    legend = (
        "before, after: information abundance of the field's rows before and after training, as they are (no normalization)",
        "most: the largest possible one, the smaller of rows and numbers per row",
        "rows: of the field in the table, with those of missing and unknown values; moved: those that training has changed. The others are",
        "still as they were drawn: where few have moved, `after` says more of the drawing than of what was learnt",
    )
    return "\n".join([told.to_string(index=False, float_format="%.2f"), "", *legend])

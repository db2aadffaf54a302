"""What representations are worth to downstream tasks, as a person reads it: a sentence per task, a table, bars with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ..plots import bars
from .transfer_comparison import Comparison, Result
from .transfer_variants import NONE

FILES = "compare_transfer"


def transfer_report(made: Comparison) -> tuple[dict[str, float | None], dict[str, Figure], str]:
    """(metrics, figures by file name, the sentences and the table)."""
    metrics: dict[str, float | None] = {}
    for one in made.results:
        name = f"{one.downstream}.{one.task}.{one.variant}"
        metrics |= {f"{name}.ne": one.ne, f"{name}.parameters": float(one.parameters)}
        metrics |= {f"{name}.{key}": getattr(one, key) for key in ("gain", "low", "high")} if one.variant != NONE else {}
    figures, lines = {}, []
    for part in made.rows:
        there = ", ".join(f"{name} {share:.0%}" for name, share in part.train.there.items())
        lines.append(f"{part.name}: {part.train.impressions:,} training rows; of them have {there}")
    for (downstream, task), its in by_task(made.results).items():
        lines.append(sentence(its))
        if gains := gains_of(its):
            figures[f"{FILES}/{downstream}_{task}.png"] = gain_bars(gains, f"{downstream}, {task}")
    return metrics, figures, "\n".join([*lines, "", table(made.results).to_string(index=False, float_format="%.4f", na_rep="-")])


def table(results: Sequence[Result]) -> pd.DataFrame:
    """A row per result."""
    return pd.DataFrame(results, columns=list(Result._fields))


def by_task(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """(downstream task, task) -> its variants."""
    of: dict[tuple[str, str], list[Result]] = {}
    for one in results:
        of.setdefault((one.downstream, one.task), []).append(one)
    return of


def gains_of(results: Sequence[Result]) -> dict[str, tuple[float, float, float]]:
    """variant -> (gain, low, high) of one task, of the variants whose gain is known."""
    return {one.variant: (one.gain, one.low or 0.0, one.high or 0.0) for one in results if one.gain is not None}


def gain_bars(gains: Mapping[str, tuple[float, float, float]], title: str) -> Figure:
    """A bar with its interval per variant; the best in another colour."""
    heights = {name: gain for name, (gain, _, _) in gains.items()}
    spread = {name: (low, high) for name, (_, low, high) in gains.items()}
    return bars(heights, spread, f"{title}: NE gain over {NONE}", max(heights, key=heights.__getitem__))


def sentence(results: Sequence[Result]) -> str:
    """What the variants of one task came to, in words. A difference is shown where its 95 % interval leaves out 0."""
    first, others = results[0], [one for one in results if one.variant != NONE]
    title = f"{first.downstream}, {first.task}"
    if first.ne is None:
        return f"{title}: nothing can be said, for its {first.validation_rows:,} validation rows have labels of one class only"
    same = [one for one in others if one.low == one.high == 0]
    known = [one for one in others if one.low is not None and one.high is not None and one not in same]
    said = [
        *_shown("better", [one for one in known if (one.low or 0) > 0]),
        *_shown("worse", [one for one in known if (one.high or 0) < 0]),
    ]
    if unclear := [one for one in known if (one.low or 0) <= 0 <= (one.high or 0)]:
        sizes = ", ".join(f"{one.variant} ({((one.high or 0) - (one.low or 0)) / 2:.1%} could have been seen)" for one in unclear)
        said.append(f"no difference can be shown on {first.validation_users:,} users: {sizes}")
    if same:
        said.append(f"reads the same: {', '.join(one.variant for one in same)}")
    if unknown := [one.variant for one in others if one not in (*known, *same)]:
        said.append(f"nothing can be said of {', '.join(unknown)}, for too few users have a response")
    return f"{title}, against {NONE} with {first.seeds} seed{'s' if first.seeds > 1 else ''}: {'; '.join(said)}"


def _shown(word: str, ones: Sequence[Result]) -> list[str]:
    each = ", ".join(f"{one.variant} {one.gain:+.1%} ({one.low:.1%} to {one.high:.1%})" for one in ones)
    return [f"{word}: {each}"] if ones else []

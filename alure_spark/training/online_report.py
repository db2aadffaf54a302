"""Whether a model that learns through the day may be used, and what is said of it: both models judged on the same impressions.

Each was predicted before it was learnt from, by the model as it then was and by the one that it began as.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.special import entr

from .. import metrics
from ..clock import DAY_MS
from ..plots import curves
from .gate import Verdict
from .online_state import COUNT, FROZEN, LEARNING, OnlineState


def verdict(state: OnlineState) -> Verdict:
    """Passed where the mean losses of all tasks together are not above those of the model that it began as."""
    sums = state.totals().sum(axis=0)
    judged = sums[sums[:, COUNT] > 0] if len(sums) else sums
    if not len(judged):
        return Verdict(False, "not champion: no impression that was predicted has made a sample yet")
    learning, frozen = (float((judged[:, which] / judged[:, COUNT]).sum()) for which in (LEARNING, FROZEN))
    passed = learning <= frozen
    said = f"loss before learning {learning:.4f}, {state.base}, as which it began, has {frozen:.4f} on the same impressions"
    return Verdict(passed, f"{'' if passed else 'not '}champion: {said}")


def metrics_and_text(state: OnlineState, tasks: Sequence[str], title: str) -> tuple[dict[str, float | None], str]:
    """(metrics, lines below the title). Per task: impressions, positives, normalized entropy of both, and how much less the loss became.

    The interval of that, nats per impression, is over windows.
    """
    result: dict[str, float | None] = {**state.counts}
    totals = state.totals()
    for column, task in enumerate(tasks):
        of_task = totals[:, column] if len(totals) else np.zeros((0, 4))
        result |= {f"{task}.{name}": value for name, value in _of_task(of_task).items()}
    lines = [title, *(f"{key} {'-' if value is None else f'{value:,.4f}'}" for key, value in sorted(result.items()))]
    return result, "\n".join(lines)


def _of_task(windows: np.ndarray) -> dict[str, float | None]:
    count, positive, learning, frozen = windows.sum(axis=0)
    found: dict[str, float | None] = {"impressions": count, "positives": positive, "ne": None, "frozen_ne": None}
    found |= dict.fromkeys(("gain", "gain_low", "gain_high"))
    if not 0 < positive < count:
        return found
    least = count * (entr(positive / count) + entr(1 - positive / count))  # nats of who knows the base rate alone
    found |= {"ne": learning / least, "frozen_ne": frozen / least}
    usual = count / len(windows)
    gain = metrics.paired_interval(windows[:, FROZEN] / usual, windows[:, LEARNING] / usual)
    return found | {"gain": gain.difference, "gain_low": gain.low, "gain_high": gain.high}


def figures(state: OnlineState, tasks: Sequence[str]) -> dict[str, Figure]:
    """Nats per impression of both models, day by day after it began."""
    totals = state.totals()
    days = (np.array(sorted(state.judged)) - state.begin_ms) // DAY_MS
    lines = {}
    for column, task in enumerate(tasks if len(totals) else ()):
        sums = np.stack([np.bincount(days - days.min(), totals[:, column, which]) for which in range(4)])
        there = sums[COUNT] > 0
        for name, which in (("learning", LEARNING), ("frozen", FROZEN)):
            lines[f"{task}, {name}"] = (np.flatnonzero(there) + days.min(), sums[which][there] / sums[COUNT][there])
    return {"learn_ranking/loss.png": curves(lines, "days", "nats per impression")} if lines else {}

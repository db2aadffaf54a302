"""Figures for MLflow and docs/: arrays in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure


def histogram(values: np.ndarray, counts: np.ndarray, xlabel: str, ylabel: str, bins: int = 40) -> Figure:
    """Weighted histogram of values (n,) that occur counts (n,) times."""
    figure, axes = _axes(xlabel, ylabel)
    if len(values):
        axes.hist(values, bins=min(bins, int(values.max() - values.min()) + 1), weights=counts, color="#4269d0")
    return figure


def bars(values: Mapping[str, float], errors: Mapping[str, tuple[float, float]], ylabel: str, highlight: str) -> Figure:
    """One horizontal bar per name with its interval (low, high); the highlighted name in another colour."""
    figure, axes = _axes(ylabel, "")
    names = list(values)[::-1]
    heights = np.array([values[name] for name in names])
    spread = np.array([errors.get(name, (values[name], values[name])) for name in names]).T
    colours = ["#ff725c" if name == highlight else "#4269d0" for name in names]
    axes.barh(names, heights, xerr=np.abs(spread - heights) if errors else None, color=colours, capsize=3)
    for place, (height, end) in enumerate(zip(heights, spread.max(axis=0, initial=0.0), strict=True)):
        # Beside the bar and its interval: inside, a small bar hides it.
        axes.annotate(f"{height:z.4f}", (end, place), xytext=(5, 0), textcoords="offset points", va="center", color="#222222")
    axes.margins(x=0.15)
    figure.set_figheight(max(figure.get_figheight(), 0.28 * len(names) + 1))
    return figure


def curves(series: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, ylabel: str, diagonal: bool = False) -> Figure:
    """One line per name through its points (x (n,), y (n,)); diagonal draws what x = y would be."""
    figure, axes = _axes(xlabel, ylabel)
    if diagonal:
        top = max((float(max(x.max(), y.max())) for x, y in series.values() if len(x)), default=1.0)
        axes.plot([0, top], [0, top], color="#999999", linestyle=":")
    for name, (x, y) in series.items():
        axes.plot(x, y, marker="o", markersize=4, label=name)
    if series:
        axes.legend(frameon=False)
    return figure


def scatter(x: np.ndarray, y: np.ndarray, colourings: Mapping[str, np.ndarray]) -> Figure:
    """One panel per colouring: points (n,) coloured by their labels (n,); up to ten labels are named."""
    figure = Figure(figsize=(5 * max(1, len(colourings)), 4.5), layout="constrained", dpi=120)
    for number, (name, labels) in enumerate(colourings.items()):
        axes = figure.add_subplot(1, len(colourings), number + 1)
        axes.set_title(name)
        axes.set_xticks([])
        axes.set_yticks([])
        distinct, of_point = np.unique(labels, return_inverse=True)
        axes.scatter(x, y, c=of_point % 20, cmap="tab20", vmin=0, vmax=19, s=6, linewidths=0)
        if len(distinct) <= 10:
            for place, label in enumerate(distinct):
                axes.scatter([], [], color=matplotlib.colormaps["tab20"](place / 19), label=str(label), s=20)
            axes.legend(frameon=False)
    return figure


def _axes(xlabel: str, ylabel: str):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes

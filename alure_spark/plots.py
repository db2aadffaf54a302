"""Figures for MLflow and docs/: arrays in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


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
    if all((x == np.round(x)).all() for x, _ in series.values()):  # no half epochs
        axes.xaxis.get_major_locator().set_params(integer=True)
    if series:  # beside the lines: among many of them no place is free
        figure.legend(loc="outside right center", frameon=False, fontsize=9)
        figure.set_figwidth(figure.get_figwidth() + 0.08 * max(map(len, series)))
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


@dataclass(frozen=True)
class HeatMap:
    """One panel of `heat_maps`."""

    title: str
    values: np.ndarray  # (rows, columns); NaN where there is nothing: hatched
    rows: Sequence[str]
    columns: Sequence[str]
    grey: np.ndarray | None = None  # (rows, columns) bool: drawn grey, as it may be chance


def heat_maps(grid: Sequence[Sequence[HeatMap]], titles: Sequence[str], xlabel: str, ratios: Sequence[bool]) -> Figure:
    """Panels in lines and columns. A column has a title and one scale of colours: from 0, or around 1 where it is of ratios.

    Panels of a line share their rows, and all panels the names of their columns.
    """
    heights = [len(line[0].rows) for line in grid]
    slope = 90 if max(map(len, grid[0][0].columns)) > 2 else 0
    size = (2 + 4.6 * len(titles), 1.6 + sum(0.24 * height + 0.55 for height in heights))
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    panels = figure.subplots(len(grid), len(titles), squeeze=False, gridspec_kw={"height_ratios": heights})
    for column, (title, ratio) in enumerate(zip(titles, ratios, strict=True)):
        shown = np.concatenate([np.where(_grey(line[column]), np.nan, line[column].values).ravel() for line in grid])
        norm, colours = _colours(shown, ratio)
        for number, line in enumerate(grid):
            axes, panel = panels[number, column], line[column]
            axes.imshow(np.where(_grey(panel), 1.0, np.nan), cmap="Greys", vmin=0, vmax=4, aspect="auto")
            coloured = np.where(_grey(panel), np.nan, np.maximum(panel.values, float(norm.vmin or 0)))
            image = axes.imshow(coloured, cmap=colours, norm=norm, aspect="auto")
            axes.set_yticks(range(len(panel.rows)), panel.rows if column == 0 else [], fontsize=8, parse_math=False)
            last = number == len(grid) - 1
            axes.set_xticks(range(len(panel.columns)), panel.columns if last else [], fontsize=8, rotation=slope, parse_math=False)
            axes.patch.set(hatch="////", edgecolor="#cccccc", facecolor="white")
            axes.tick_params(length=0)
            axes.set_title(panel.title, fontsize=9, loc="left", parse_math=False)
            if last:
                axes.set_xlabel(xlabel)
        bar = figure.colorbar(image, ax=panels[:, column].tolist(), location="top", shrink=0.7, aspect=40)
        bar.set_label(title, fontsize=10)
        bar.ax.xaxis.set_major_locator(MaxNLocator(4))
        bar.ax.xaxis.set_major_formatter("{x:.3g}")  # the usual one writes 1e-6 across the title
        if ratio:
            steps = _steps(float(norm.vmax or 1))
            bar.set_ticks(steps, labels=[f"{step:g}" for step in steps])
            bar.minorticks_off()
    return figure


def _grey(panel: HeatMap) -> np.ndarray:
    return np.zeros(panel.values.shape, bool) if panel.grey is None else panel.grey


def _colours(shown: np.ndarray, ratio: bool) -> tuple[Normalize, str]:
    """The scale of colours for numbers (n,) some of which are NaN."""
    there = shown[np.isfinite(shown) & ((shown > 0) | (not ratio))]
    if not ratio:
        return Normalize(0, there.max() if len(there) and there.max() > 0 else 1), "viridis_r"
    reach = max(1.25, float(np.exp(np.abs(np.log(there)).max(initial=0.0))))
    return LogNorm(1 / reach, reach), "RdBu_r"


def _steps(reach: float) -> list[float]:
    """Five ratios of two digits around 1."""
    middle = float(f"{reach**0.5:.2g}")
    outer = float(f"{reach * 0.98:.2g}")
    return sorted({float(f"{step:.2g}") for step in (1 / outer, 1 / middle, 1.0, middle, outer)})


def spectra(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], floor: float = 1e-4) -> Figure:
    """One panel per table: of each field the singular values relative to the largest, dotted before and solid after training."""
    figure = Figure(figsize=(1.8 + 4.6 * len(panels), 4.6), layout="constrained", dpi=120)
    axes_of = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, fields) in zip(axes_of, panels.items(), strict=True):
        for place, (name, pair) in enumerate(fields.items()):
            colour = matplotlib.colormaps["tab10" if len(fields) <= 10 else "tab20"](place % 20)
            for values, style, width in zip(pair, (":", "-"), (1.2, 1.8), strict=True):
                relative = np.maximum(values / max(values[0], 1e-300), floor)
                label = name if style == "-" else None
                axes.plot(np.arange(1, len(values) + 1), relative, style, color=colour, label=label, linewidth=width, marker=".")
        axes.set_yscale("log")
        least = min((values[-1] / max(values[0], 1e-300) for pair in fields.values() for values in pair), default=0.1)
        axes.set_ylim(bottom=min(axes.get_ylim()[0], 0.6 * max(floor, min(least, 0.1))), top=1.4)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(title, parse_math=False)
        axes.set_xlabel("singular value, the largest first")
        axes.spines[["top", "right"]].set_visible(False)
    axes_of[0].set_ylabel("relative to the largest")
    axes_of[0].plot([], [], ":", color="#444444", label="before training")
    axes_of[0].plot([], [], "-", color="#444444", label="after training")
    handles = {label: handle for axes in axes_of for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside right center", frameon=False, fontsize=8)
    return figure


def paired_bars(panels: Mapping[str, Mapping[str, tuple[float, float, float]]], xlabel: str) -> Figure:
    """One panel per title: per name a bar before and a bar after training, and a mark at the most that is possible."""
    longest = max((len(names) for names in panels.values()), default=1)
    figure = Figure(figsize=(1.8 + 4.6 * len(panels), 1.6 + 0.5 * longest), layout="constrained", dpi=120)
    axes_of = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, names) in zip(axes_of, panels.items(), strict=True):
        place = np.arange(len(names))[::-1]
        before, after, most = np.array(list(names.values())).reshape(-1, 3).T
        for values, shift, colour, label in ((before, 0.2, "#bbbbbb", "before training"), (after, -0.2, "#4269d0", "after training")):
            drawn = axes.barh(place + shift, values, 0.38, color=colour, label=label)
            axes.bar_label(drawn, fmt="%.2f", padding=8, fontsize=8)
        axes.plot(most, place, "|", color="#222222", markersize=18, markeredgewidth=2, linestyle="", label="the most possible")
        axes.set_yticks(place, list(names), parse_math=False)
        axes.set_xlim(0, 1.15 * most.max(initial=1.0))
        axes.set_title(title, parse_math=False)
        axes.set_xlabel(xlabel)
        axes.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*reversed(axes_of[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def distributions(panels: Mapping[str, Mapping[str, np.ndarray]], xlabel: str, bins: int = 25) -> Figure:
    """One panel per title: per name the distribution of its values (n,), which lie between 0 and 100; dotted: their mean."""
    figure = Figure(figsize=(1.2 + 3.6 * len(panels), 3.6), layout="constrained", dpi=120)
    axes_of = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    names = list(dict.fromkeys(name for its in panels.values() for name in its))
    colours = {name: matplotlib.colormaps["tab10"](place % 10) for place, name in enumerate(names)}
    for axes, (title, its) in zip(axes_of, panels.items(), strict=True):
        for name, values in its.items():
            axes.hist(values, bins=bins, range=(0, 100), density=True, histtype="step", linewidth=1.8, color=colours[name], label=name)
            axes.axvline(float(values.mean()), linestyle=":", color=colours[name])
        axes.set_title(title, parse_math=False)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.supxlabel(xlabel, fontsize=10)
    return figure


def _axes(xlabel: str, ylabel: str):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes

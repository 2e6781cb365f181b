"""Draw what a folder of the benchmark has so far into its `plots`.

`ratios` has every method's loss over MAID's by task and start; `loss-<task>` and
`accuracy-<task>` have the course of the runs by cost, a panel for each start.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullFormatter

from ..compare import axes
from ..compare.curves import Array, floats
from .findings import Findings
from .rows import Grids, Row, runs
from .units import (
    CERTIFIED,
    DERIVATIVE_FREE,
    FIXED,
    HOAG,
    LABELS,
    MONOTONE,
    OURS,
    STARTS,
    Folder,
)
from .words import power

# Of a line, and of its neighbours that are drawn as one.
_POINTS, _WINDOW = 300, 13
_DASHED, _DOTTED, _MIXED = (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))
# Okabe and Ito's colours; families share a kind of line.
_LOOKS: dict[str, tuple[str, Any]] = {
    OURS: ("#0072B2", "-"),
    CERTIFIED: ("#000000", "-"),
    MONOTONE: ("#44AA99", "-"),
    "maid-paper": ("#56B4E9", "-"),
    FIXED[0]: ("#D55E00", _DASHED),
    FIXED[1]: ("#E69F00", _DASHED),
    HOAG[0]: ("#CC79A7", _DOTTED),
    HOAG[1]: ("#882255", _DOTTED),
    HOAG[2]: ("#777777", _DOTTED),
    "dfo-ls": ("#009E73", _MIXED),
    "finite-differences": ("#999933", _MIXED),
}
_MARKS = ("o", "s", "^")
# Ratios beyond which a dot lies on the edge.
_MOST = 1e3
# Of numbers on an axis of ratios that has no decade.
_PLACES = (0.2, 0.5, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10)


def draw_all(folder: Folder, found: Findings) -> dict[str, Path]:
    """Draw all pictures that have something to show; call it again at any time.

    Args:
        folder: of a finished or unfinished run.
        found: its findings.

    Returns:
        The picture's file by its name.
    """
    figures: dict[str, Figure] = {}
    grids = runs(folder)
    with mpl.rc_context(axes.STYLE):
        if found.rows:
            figures["ratios"] = _ratios(found.rows)
        for task, its in found.tasks.items():
            mine = [row for row in found.rows if row.task == task]
            if mine:
                title = f"{task}: {its['title']}"
                figures[f"loss-{task}"] = _losses(mine, grids, title)
                figures[f"accuracy-{task}"] = _accuracies(mine, grids, title)
        return {
            name: axes.save(figure, folder.path / "plots" / f"{name}.png")
            for name, figure in figures.items()
        }


def _ratios(rows: Sequence[Row]) -> Figure:
    """Draw a panel for each task, a line for each method, a dot for each start."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    present = {row.method for row in rows if row.method != OURS}
    methods = [name for name in LABELS if name in present]
    figure = axes.figure(0.42 * len(methods) + 1.9, "Loss over MAID's from the same start")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for ax, task in zip(panels, tasks, strict=True):
        ax.axvline(1.0, color=_LOOKS[OURS][0], lw=1.4, zorder=1)
        for row in (row for row in rows if row.task == task and row.method != OURS):
            _dots(ax, methods.index(row.method), row)
        ax.set(title=task, xlabel="ratio", xscale="log")
        _few_ticks(ax)
        ax.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(methods)), [axes.plain(LABELS[name]) for name in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    marks = ", ".join(
        f"{name} {power(start)}"
        for name, start in zip(("circle", "square", "triangle"), STARTS, strict=True)
    )
    beyond = any(abs(cell.log_ratio.mean) > np.log(_MOST) for r in rows for cell in r.cells)
    edge = f" Dots beyond {_MOST:g} lie on the edge." if beyond else ""
    axes.caption(
        figure,
        f"Geometric mean over seeds and its standard error; right of the line, MAID is lower. "
        f"First accuracy eps0: {marks}.{edge}",
    )
    return figure


def _dots(ax: Axes, y: int, row: Row) -> None:
    color, _ = _look(row)
    for i, (cell, mark) in enumerate(zip(row.cells, _MARKS, strict=True)):
        logs, at = cell.log_ratio, y + 0.24 * (i - 1)
        if np.isnan(logs.mean):
            continue
        value = float(np.clip(np.exp(logs.mean), 1 / _MOST, _MOST))
        error = 0.0 if np.isnan(logs.error) else logs.error
        ends = [max(value * np.exp(-error), 1 / _MOST), min(value * np.exp(error), _MOST)]
        ax.plot(ends, [at, at], color=color, lw=1.3, zorder=2)
        ax.plot(value, at, mark, color=color, ms=5.5, zorder=3)


def _few_ticks(ax: Axes) -> None:
    """Label a logarithmic axis of ratios, however short its range."""
    low, high = ax.get_xlim()
    if high / low > 20:
        ax.xaxis.set_major_formatter(LogFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
        return
    # Decades would leave it without a number.
    ax.set_xlim(min(low, 0.98), max(high, 1.02))
    _ticks(ax, [1], _PLACES)


def _ticks(ax: Axes, kept: list[float], places: Sequence[float]) -> None:
    """Label the horizontal axis at `kept`, and at those of `places` that have room."""
    low, high = ax.get_xlim()
    apart = 0.16 * np.log(high / low)
    # At the very ends a number meets that of the next panel.
    edge = (high / low) ** 0.03
    for x in places:
        if low * edge <= x <= high / edge and all(abs(np.log(x / y)) >= apart for y in kept):
            kept.append(x)
    ax.set_xticks(sorted(kept), [f"{x:g}" for x in sorted(kept)])
    ax.minorticks_off()


def _losses(rows: Sequence[Row], grids: Grids, title: str) -> Figure:
    """Draw the loss by cost, and where it really was at the end."""

    def draw(ax: Axes, row: Row, its: list[Any], costs: Array) -> Array:
        color, dashes = _look(row)
        line = _median([run["trajectory"] for run in its], costs, 1)
        width = 2.2 if row.method == OURS else 1.4
        ax.plot(costs, line, color=color, ls=dashes, lw=width, label=row.label)
        last = np.median(floats([run["judged"].get("loss") for run in its]))
        ax.plot(costs[-1], last, "o", color=color, ms=4, clip_on=False, zorder=4)
        return np.append(line, last)

    figure, panels, drawn = _panels(rows, grids, f"Loss by cost, {title}", draw)
    axes.logarithmic(panels[0])
    panels[0].set(ylabel="loss", ylim=_range(drawn))
    axes.caption(
        figure,
        "Median over seeds; flat where a run has stopped. Lines: as the method saw it, with "
        "the lower level solved to eps; dots: the exact loss at the end.",
    )
    return figure


def _accuracies(rows: Sequence[Row], grids: Grids, title: str) -> Figure:
    """Draw eps by cost, of methods that differ in it."""
    alike = {CERTIFIED, MONOTONE, FIXED[1], *DERIVATIVE_FREE}
    shown = [row for row in rows if row.method not in alike]

    def draw(ax: Axes, row: Row, its: list[Any], costs: Array) -> Array:
        color, dashes = _look(row)
        line = _smooth(_median([run["trajectory"] for run in its], costs, 2))
        # A line that goes on would say that something is still computed.
        line[costs > np.median([run["trajectory"][-1][0] for run in its])] = np.nan
        width = 2.2 if row.method == OURS else 1.4
        ax.plot(costs, line, color=color, ls=dashes, lw=width, label=row.label)
        return line

    figure, panels, _ = _panels(shown, grids, f"Accuracy eps by cost, {title}", draw)
    axes.logarithmic(panels[0])
    panels[0].set_ylabel("eps")
    axes.caption(
        figure,
        "Median over seeds, and geometric mean of neighbours: MAID's eps follows steps of two "
        "lengths that take turns. A line ends with the last step.",
    )
    return figure


def _panels(
    rows: Sequence[Row],
    grids: Grids,
    title: str,
    draw: Callable[[Axes, Row, list[Any], Array], Array],
) -> tuple[Figure, Any, Array]:
    """Draw a panel for each start; return all that was drawn, too."""
    figure = axes.figure(4.0, title)
    panels = figure.subplots(1, len(STARTS), sharey=True, squeeze=False)[0]
    drawn = []
    for ax, start in zip(panels, STARTS, strict=True):
        its = [
            [grids["comparison", row.task, row.method, seed][start] for seed in row.seeds]
            for row in rows
        ]
        every = [run["trajectory"] for mine in its for run in mine]
        first = min((path[1][0] for path in every if len(path) > 1), default=1)
        last = max(2, first, *(run["cost"] for mine in its for run in mine))
        costs = np.geomspace(max(1, 0.7 * first), last, _POINTS)
        drawn += [draw(ax, row, mine, costs) for row, mine in zip(rows, its, strict=True)]
        ax.set(title=f"eps0 = {power(start)}", xlabel="cost", xscale="log")
        # Decades first: on a short axis there may be one, or none.
        decades = [10.0**k for k in range(7)]
        _ticks(ax, [], [*decades, *(5 * x for x in decades), *(2 * x for x in decades)])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8.5)
    return figure, panels, np.concatenate(drawn)


def _look(row: Row) -> tuple[str, Any]:
    return _LOOKS.get(row.method, ("#555555", "-"))


def _smooth(line: Array) -> Array:
    """Return geometric means of neighbours."""
    ones = np.ones(_WINDOW)
    total = np.convolve(np.log(line), ones, "same")
    return np.exp(total / np.convolve(np.ones(len(line)), ones, "same"))


def _median(paths: Sequence[Any], costs: Array, column: int) -> Array:
    """Return the median over runs of what each had when so much was spent."""
    lines = []
    for path in paths:
        points = floats(path)
        at = np.searchsorted(points[:, 0], costs, side="right") - 1
        lines.append(points[at, column])
    return np.median(lines, axis=0)


def _range(values: Array) -> tuple[float, float]:
    """Return the range of the losses that were seen, a little wider."""
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return 0.1, 1.0
    low, high = values.min(), values.max()
    pad = (high / low) ** 0.05
    return float(low / pad), float(high * pad)

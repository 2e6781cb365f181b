"""The pictures of the grid of starts: heat maps by strategy, and means beside worst cells."""

from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..compare import axes
from .grid import OURS, Row
from .units import GLOBAL_RATES, LOCAL_RATES, PLAIN

_INK = "#0072B2"
# Points beyond which a gain's colour no longer changes: most of what is told is near zero.
_MOST = 20.0


def accuracies(rows: Sequence[Row]) -> Figure:
    """Draw the accuracy of every strategy from every start, on one task."""
    values = [[cell.accuracy for cell in row.cells] for row in rows]
    norm = Normalize(np.min(values), np.max(values))
    title = f"Accuracy from every start, percent: {rows[0].task}"
    return _maps(rows, values, title, "viridis", norm, "{:.0f}".format)


def gains(rows: Sequence[Row]) -> Figure:
    """Draw the gain of every strategy over FedAvg from every start, on one task."""
    others = [row for row in rows if row.strategy != PLAIN]
    values = [[cell.gain.mean for cell in row.cells] for row in others]
    title = f"Gain over FedAvg from the same start, points: {rows[0].task}"
    return _maps(others, values, title, "RdBu", Normalize(-_MOST, _MOST), _short)


def starts(rows: Sequence[Row]) -> Figure:
    """Draw mean and worst cell of every strategy, a panel for each task."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    figure = axes.figure(0.3 * len(strategies) + 1.9, "Mean over the grid, and worst cell")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    labels = {row.strategy: row.label for row in rows}
    for ax, task in zip(panels, tasks, strict=True):
        for row in (row for row in rows if row.task == task):
            _ends(ax, strategies.index(row.strategy), row)
        ax.set(title=task, xlabel="accuracy, percent")
        ax.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(strategies)), [axes.plain(labels[s]) for s in strategies])
    panels[0].set_ylim(len(strategies) - 0.5, -0.5)
    for tick, strategy in zip(panels[0].get_yticklabels(), strategies, strict=True):
        tick.set_fontweight("bold" if strategy == OURS else "normal")
    axes.caption(figure, "Circle: mean over the grid. Diamond: worst cell. Stroke: best cell.")
    return figure


def _ends(ax: Axes, y: int, row: Row) -> None:
    color, size = (_INK, 8.0) if row.strategy == OURS else ("#555555", 6.0)
    best, worst = row.best.accuracy, row.worst.accuracy
    ax.plot([worst, best], [y, y], color=color, lw=1.2, alpha=0.5, zorder=2)
    ax.plot(best, y, "|", color=color, ms=size + 3, mew=1.8, zorder=3)
    ax.plot(worst, y, "D", color=color, ms=size, zorder=3)
    ax.plot(row.mean.mean, y, "o", mfc="white", mec=color, mew=1.8, ms=size, zorder=4)


def _maps(
    rows: Sequence[Row],
    values: Sequence[Sequence[float]],
    title: str,
    colors: str,
    norm: Normalize,
    text: Callable[[float], str],
) -> Figure:
    columns = max(5, -(-len(rows) // 2))
    deep = -(-len(rows) // columns)
    figure = axes.figure(2.0 * deep + 0.9, title)
    panels = figure.subplots(deep, columns, squeeze=False, sharex=True, sharey=True)
    for ax, row, its in zip(panels.flat, rows, values, strict=False):
        grid = np.reshape(its, (len(LOCAL_RATES), len(GLOBAL_RATES)))
        ax.imshow(grid, cmap=colors, norm=norm, aspect="auto")
        _numbers(ax, row, its, text, lambda value: _ink(float(norm(value)), colors))
        weight = "bold" if row.strategy == OURS else "normal"
        ax.set_title(axes.label(row.label, 19), fontsize=8.5, fontweight=weight)
        ax.grid(visible=False)
        ax.tick_params(labelsize=8, length=2)
        ax.set_yticks(range(len(LOCAL_RATES)), [f"{rate:g}" for rate in LOCAL_RATES])
        ax.set_xticks(range(len(GLOBAL_RATES)), [_bare(rate) for rate in GLOBAL_RATES])
    for ax in panels.flat[len(rows) :]:
        ax.set_axis_off()
    for ax in panels[:, 0]:
        ax.set_ylabel("beta")
    for ax in panels[-1]:
        ax.set_xlabel("alpha")
    end = f" Colours end at {_MOST:g} points." if norm.vmin == -_MOST else ""
    axes.caption(
        figure,
        "Mean of the last rounds' accuracy, over seeds, by the initial rates beta of the "
        f"clients and alpha of the server. ×: a seed diverged.{end}",
    )
    return figure


def _numbers(
    ax: Axes,
    row: Row,
    values: Sequence[float],
    text: Callable[[float], str],
    ink: Callable[[float], str],
) -> None:
    for i, (cell, value) in enumerate(zip(row.cells, values, strict=True)):
        y, x = divmod(i, len(GLOBAL_RATES))
        written = text(value) + ("×" if cell.diverged else "")
        number = ax.text(
            x, y, written, ha="center", va="center", fontsize=6.2, color=ink(value)
        )
        # It lies within the panel: there is no room to be found for it.
        number.set_in_layout(False)


def _short(gain: float) -> str:
    return f"{gain:+.1f}" if abs(gain) < 9.95 else f"{gain:+.0f}"


def _bare(rate: float) -> str:
    """Return a rate without the zero that a narrow panel has no room for."""
    return f"{rate:g}".removeprefix("0")


def _ink(level: float, colors: str) -> str:
    """Return the ink that is read best on a colour of the map."""
    red, green, blue, _ = mpl.colormaps[colors](level)
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"

"""The pictures of selection: differences to Random, every seed, curves, and bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..compare import axes
from .selections import DECIDING, LESS, MU, OURS, Row, Runs
from .units import RANDOM, SELECTORS

_INK = "#0072B2"
# Okabe and Ito's and Tol's: apart for colour-blind eyes, and dashes tell the lines apart too.
_COLORS = {
    RANDOM: "#000000",
    "power-of-choice": "#D55E00",
    "oort": "#CC79A7",
    "oort-without-system": "#E69F00",
    OURS: _INK,
    "hetero-select-reconstruction": "#44AA99",
    "hetero-select-v2": "#882255",
}
_DASHES = ["-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))]
_WORDS = {
    "last": "last accuracy, points",
    "late_deviation": "late deviation, points",
    "worst_class": "worst class, points",
}
_MB = 1e6


def differences(rows: Sequence[Row]) -> Figure:
    """Draw the three deciding numbers less Random's, a row of panels for each task."""
    figure, panels, names = _panels(rows, "Less Random, paired by seed", DECIDING)
    for (task, measure), ax in panels.items():
        for row in (row for row in rows if row.task == task and row.selector != RANDOM):
            found, y = row.against[measure], names.index(row.selector)
            color = _color(row.selector)
            half = [[found.mean - found.low], [found.high - found.mean]]
            ax.errorbar(found.mean, y, xerr=np.nan_to_num(half), fmt="o", color=color,
                        ms=6, lw=1.8, capsize=3)  # fmt: skip
        ax.axvline(0, color="#444444", lw=0.9, zorder=1)
        side = "left is steadier" if measure in LESS else "right is better"
        ax.set(title=f"{task}: {side}", xlabel=_WORDS[measure])
    axes.caption(figure, f"Mean over seeds and its 95 % interval; {_seeds(rows)}.")
    return figure


def late(rows: Sequence[Row]) -> Figure:
    """Draw last accuracy and late deviation of every seed, a row of panels for each task."""
    title = "Last accuracy and late standard deviation"
    figure, panels, names = _panels(rows, title, ("last", "late_deviation"))
    for (task, measure), ax in panels.items():
        for row in (row for row in rows if row.task == task):
            y, color = names.index(row.selector), _color(row.selector)
            values = row.values[measure]
            ax.plot(values, [y] * len(values), "|", color=color, ms=9, alpha=0.45)
            ax.plot(row.means[measure].mean, y, "o", color=color, ms=7, mec="white")
        side = "left is steadier" if measure in LESS else "right is better"
        unit = _WORDS[measure].replace("points", "percent" if measure == "last" else "points")
        ax.set(title=f"{task}: {side}", xlabel=unit)
    axes.caption(figure, f"Strokes: seeds. Circle: their mean; {_seeds(rows)}.")
    return figure


def curves(rows: Sequence[Row], runs: Runs) -> Figure:
    """Draw the accuracy by round, mean over seeds, a panel for each task."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    figure = axes.figure(3.0 * len(tasks) + 1.0, "Accuracy by round, mean over seeds")
    panels = figure.subplots(len(tasks), 1, squeeze=False)[:, 0]
    for ax, task in zip(panels, tasks, strict=True):
        most = 0.0
        for row in (row for row in rows if row.task == task):
            every = [runs[task, MU, row.selector, seed]["accuracies"] for seed in row.seeds]
            mean = np.mean(np.array(every, dtype=float), axis=0)
            most = max(most, float(mean.max()))
            x = np.arange(1, len(mean) + 1)
            ax.plot(x, mean, label=axes.plain(row.label), **_look(row.selector))
        ax.set(title=task, ylabel="percent", xlim=(0, None))
        # The first rounds of all are alike, and would squash what differs.
        ax.set_ylim(max(0.0, most - 45), most + 2)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    panels[-1].set_xlabel("round")
    axes.legend(panels[0], handlelength=3.2)
    axes.caption(figure, f"{_seeds(rows)}. The steep beginning is cut off.")
    return figure


def traffic(rows: Sequence[Row]) -> Figure:
    """Draw the bytes of a run both ways, a panel for each task."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    names = list(dict.fromkeys(row.selector for row in rows))
    figure = axes.figure(0.36 * len(names) + 1.9, "Bytes of a run, probes included")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for ax, task in zip(panels, tasks, strict=True):
        for row in (row for row in rows if row.task == task):
            y = names.index(row.selector)
            for shift, measure, color in (
                (-0.18, "bytes_down", "#0072B2"),
                (0.18, "bytes_up", "#E69F00"),
            ):
                ax.barh(y + shift, row.means[measure].mean / _MB, 0.34, color=color)
        ax.set(title=task, xlabel="MB")
        ax.grid(axis="y", visible=False)
    _name_rows(panels[0], names)
    axes.caption(figure, "Upper bar: to the clients. Lower bar: from them.")
    return figure


def _panels(
    rows: Sequence[Row], title: str, measures: Sequence[str]
) -> tuple[Figure, dict[tuple[str, str], Axes], list[str]]:
    """Return a figure with a panel for each task and measure, and the rows' names."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    names = list(dict.fromkeys(row.selector for row in rows))
    figure = axes.figure((0.3 * len(names) + 1.1) * len(tasks) + 0.9, title)
    grid = figure.subplots(len(tasks), len(measures), sharey=True, squeeze=False)
    for ax in grid[:, 0]:
        _name_rows(ax, names)
    places = [(task, measure) for task in tasks for measure in measures]
    return figure, dict(zip(places, grid.flat, strict=True)), names


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), [axes.label(SELECTORS[name], 22) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    for tick, name in zip(ax.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name == OURS else "normal")


def _look(selector: str) -> dict[str, Any]:
    ours = selector == OURS
    dashes = "-" if ours else _DASHES[list(_COLORS).index(selector) % len(_DASHES)]
    return {
        "color": _color(selector),
        "lw": 2.4 if ours else 1.2,
        "ls": dashes,
        "zorder": 4 if ours else 3,
    }


def _color(selector: str) -> str:
    return _COLORS[selector]


def _seeds(rows: Sequence[Row]) -> str:
    most = max(len(row.seeds) for row in rows)
    return f"{most} seed{'s' * (most > 1)}"

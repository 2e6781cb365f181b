"""The pictures of the study, from what a folder has so far.

`ratios` has every method's loss over MAID's by task and start; `loss-<task>` and
`accuracy-<task>` have the course of the runs by cost, a panel for each start.

    python -m benchmarks.bilevel.plots      # draw those of the record into docs/images
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter, NullFormatter
from numpy.typing import NDArray

from ..core.page import DOCS
from ..core.plotting import figure, logarithmic, plain
from ..core.records import RECORDS
from .findings import Runs, by_start, comparison, each
from .formats import power
from .methods import CERTIFIED, DERIVATIVE_FREE, METHODS, OURS
from .study import STARTS, Folder

Array = NDArray[np.float64]
# Of a line, and of its neighbours that are drawn as one.
_POINTS, _WINDOW = 300, 13
_DASHED, _DOTTED, _MIXED = (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))
# Families of methods share a kind of line.
_LOOKS: dict[str, tuple[str, Any]] = {
    OURS: ("#0072B2", "-"),
    CERTIFIED: ("#000000", "-"),
    "maid-monotone": ("#44AA99", "-"),
    "maid-paper": ("#56B4E9", "-"),
    "fixed": ("#D55E00", _DASHED),
    "fixed-paper": ("#E69F00", _DASHED),
    "hoag-exponential": ("#CC79A7", _DOTTED),
    "hoag-quadratic": ("#882255", _DOTTED),
    "hoag-cubic": ("#777777", _DOTTED),
    "dfo-ls": ("#009E73", _MIXED),
    "finite-differences": ("#999933", _MIXED),
}
_MARKS = {"o": "circle", "s": "square", "^": "triangle"}
# Their accuracies are those of other methods, or never change.
_NO_ACCURACIES = (CERTIFIED, "maid-monotone", "fixed-paper", *DERIVATIVE_FREE)
# Ratios beyond which a dot lies on the edge.
_MOST = 1e3
# Numbers for an axis of ratios that has no decade, and for one of costs.
_RATIOS = (0.2, 0.5, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10)
_COSTS = [factor * 10.0**k for factor in (1, 5, 2) for k in range(7)]


def draw_all(folder: Folder, target: Path, prefix: str = "") -> dict[str, Path]:
    """Draw all pictures that have something to show.

    Args:
        folder: of a finished or unfinished run.
        target: the folder that the pictures go to.
        prefix: of their names.

    Returns:
        The files, by what they show in words.
    """
    runs = comparison(folder)
    if runs.empty:
        return {}
    file = target / f"{prefix}ratios.png"
    _ratios(runs, file)
    made = {"Loss of every method over MAID's, by task and start": file}
    for task, its in runs.groupby("task", sort=False):
        title = f"{task}: {its['title'].iloc[0]}"
        for name, draw in (("loss", _losses), ("accuracy", _accuracies)):
            file = target / f"{prefix}{name}-{task}.png"
            draw(its, file, title)
            made[f"{name.capitalize()} by cost on {task}, a panel for each start"] = file
    return made


def _ratios(runs: Runs, file: Path) -> None:
    """Draw a panel for each task, a line for each method, a dot for each start."""
    tasks = list(runs["task"].unique())
    methods = [name for name, _, _ in each(runs) if name != OURS]
    marks = ", ".join(
        f"{mark} {power(start)}" for mark, start in zip(_MARKS.values(), STARTS, strict=True)
    )
    text = (
        "Geometric mean over seeds and its standard error; right of the line, MAID is lower. "
        f"First accuracy eps0: {marks}. Dots beyond {_MOST:g} lie on the edge."
    )
    height = 0.42 * len(methods) + 1.9
    with figure(file, height, "Loss over MAID's from the same start", text) as drawn:
        panels = drawn.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for ax, task in zip(panels, tasks, strict=True):
            ax.axvline(1.0, color=_LOOKS[OURS][0], lw=1.4, zorder=1)
            for name, _, mine in each(runs[runs["task"] == task]):
                if name != OURS:
                    _dots(ax, methods.index(name), mine, _LOOKS[name][0])
            ax.set(title=task, xlabel="ratio", xscale="log")
            _few_ticks(ax)
            ax.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(methods)), [METHODS[name].label for name in methods])
        panels[0].set_ylim(len(methods) - 0.5, -0.5)


def _dots(ax: Axes, y: int, mine: Runs, color: str) -> None:
    for i, (logs, mark) in enumerate(zip(by_start(mine, "log_ratio"), _MARKS, strict=True)):
        if np.isnan(logs.mean):
            continue
        error, at = np.nan_to_num(logs.error), y + 0.24 * (i - 1)
        middle = np.clip(logs.mean, -np.log(_MOST), np.log(_MOST))
        ends = np.exp([middle - error, middle + error]).clip(1 / _MOST, _MOST)
        ax.plot(ends, [at, at], color=color, lw=1.3, zorder=2)
        ax.plot(np.exp(middle), at, mark, color=color, ms=5.5, zorder=3)


def _few_ticks(ax: Axes) -> None:
    """Label a logarithmic axis of ratios, however short its range."""
    low, high = ax.get_xlim()
    if high / low > 20:
        ax.xaxis.set_major_formatter(LogFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
        return
    # Decades would leave it without a number.
    ax.set_xlim(min(low, 0.98), max(high, 1.02))
    _ticks(ax, [1], _RATIOS)


def _ticks(ax: Axes, kept: list[float], candidates: Sequence[float]) -> None:
    """Label the horizontal axis at `kept`, and at those candidates that have room."""
    low, high = ax.get_xlim()
    apart = 0.16 * np.log(high / low)
    # At the very ends a number meets that of the next panel.
    edge = (high / low) ** 0.03
    for x in candidates:
        if low * edge <= x <= high / edge and all(abs(np.log(x / y)) >= apart for y in kept):
            kept.append(x)
    ax.set_xticks(sorted(kept), [f"{x:g}" for x in sorted(kept)])
    ax.minorticks_off()


def _losses(runs: Runs, file: Path, title: str) -> None:
    """Draw the loss by cost, and where it really was at the end."""

    def draw(ax: Axes, name: str, mine: Runs, costs: Array) -> None:
        _line(ax, name, costs, median_course(mine["trajectory"], costs, 1))
        last = np.median(mine["judged loss"])
        ax.plot(costs[-1], last, "o", color=_LOOKS[name][0], ms=4, clip_on=False, zorder=4)

    text = (
        "Median over seeds; flat where a run has stopped. Lines: as the method saw it, with "
        "the lower level solved to eps; dots: the exact loss at the end."
    )
    with figure(file, 4.0, f"Loss by cost, {title}", text) as drawn:
        first = _panels(drawn, runs, draw)
        first.set_ylabel("loss")


def _accuracies(runs: Runs, file: Path, title: str) -> None:
    """Draw eps by cost, of methods that differ in it."""

    def draw(ax: Axes, name: str, mine: Runs, costs: Array) -> None:
        line = _smooth(median_course(mine["trajectory"], costs, 2))
        # A line that goes on would say that something is still computed.
        line[costs > np.median([path[-1][0] for path in mine["trajectory"]])] = np.nan
        _line(ax, name, costs, line)

    text = (
        "Median over seeds, and geometric mean of neighbours: MAID's eps follows steps of two "
        "lengths that take turns. A line ends with the last step."
    )
    with figure(file, 4.0, f"Accuracy eps by cost, {title}", text) as drawn:
        first = _panels(drawn, runs[~runs["method"].isin(_NO_ACCURACIES)], draw)
        first.set_ylabel("eps")


def _panels(drawn: Any, runs: Runs, draw: Callable[[Axes, str, Runs, Array], None]) -> Axes:
    """Draw a panel for each start; return the first."""
    panels = drawn.subplots(1, len(STARTS), sharey=True, squeeze=False)[0]
    for ax, start in zip(panels, STARTS, strict=True):
        its = runs[runs["start"] == start]
        first = min((path[1][0] for path in its["trajectory"] if len(path) > 1), default=1)
        last = max(2, first, its["cost"].max())
        costs = np.geomspace(max(1, 0.7 * first), last, _POINTS)
        for name, _, mine in each(its):
            draw(ax, name, mine, costs)
        ax.set(title=f"eps0 = {power(start)}", xlabel="cost", xscale="log")
        # Decades first: on a short axis there may be one, or none.
        _ticks(ax, [], _COSTS)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right center", fontsize=8.5)
    logarithmic(panels[0])
    return panels[0]


def _line(ax: Axes, name: str, costs: Array, line: Array) -> None:
    color, dashes = _LOOKS[name]
    label, width = plain(METHODS[name].label), 2.2 if name == OURS else 1.4
    ax.plot(costs, line, color=color, ls=dashes, lw=width, label=label)


def _smooth(line: Array) -> Array:
    """Return geometric means of neighbours."""
    ones = np.ones(_WINDOW)
    total = np.convolve(np.log(line), ones, "same")
    return np.exp(total / np.convolve(np.ones(len(line)), ones, "same"))


def median_course(paths: Any, costs: Array, column: int) -> Array:
    """Return the median over runs of what each had when so much was spent."""
    lines = []
    for path in paths:
        points = np.array(path, dtype=float)
        lines.append(points[np.searchsorted(points[:, 0], costs, side="right") - 1, column])
    return np.median(lines, axis=0)


if __name__ == "__main__":
    draw_all(Folder(RECORDS / "bilevel"), DOCS / "images", "bilevel-")

"""The picture of the study: every method's loss over MAID's by task and start.

python -m benchmarks.bilevel.plots      # draw that of the record into docs/images
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..core.page import IMAGES
from ..core.plotting import NARROW, figure
from ..core.records import RECORDS
from .findings import Runs, by_start, comparison, each
from .formats import power
from .methods import CERTIFIED, METHODS, OURS
from .study import STARTS, Folder

_COLORS = {
    OURS: "#0072B2",
    CERTIFIED: "#000000",
    "maid-monotone": "#44AA99",
    "maid-paper": "#56B4E9",
    "fixed": "#D55E00",
    "fixed-paper": "#E69F00",
    "hoag-exponential": "#CC79A7",
    "hoag-quadratic": "#882255",
    "hoag-cubic": "#777777",
    "dfo-ls": "#009E73",
    "finite-differences": "#999933",
}
_MARKS = {"o": "circle", "s": "square", "^": "triangle"}
# Ratios beyond which a dot lies on the edge.
_MOST = 1e3
# Numbers for an axis of ratios that has no decade.
_RATIOS = (0.2, 0.5, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10)


def draw_all(folder: Folder, target: Path, prefix: str = "") -> dict[str, Path]:
    """Draw the picture if it has something to show.

    Args:
        folder: of a finished or unfinished run.
        target: the folder that it goes to.
        prefix: of its name.

    Returns:
        The file, by what it shows in words.
    """
    runs = comparison(folder)
    if runs.empty:
        return {}
    file = target / f"{prefix}ratios.png"
    _ratios(runs, file)
    return {"Loss of every method over MAID's, by task and start": file}


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
    columns = min(2, len(tasks))
    deep = -(-len(tasks) // columns)
    height = (0.3 * len(methods) + 0.8) * deep + 0.9
    with figure(file, height, "Loss over MAID's from the same start", text, NARROW) as drawn:
        panels = drawn.subplots(deep, columns, sharey=True, squeeze=False)
        for ax in panels.flat[len(tasks) :]:
            ax.set_axis_off()
        for ax, task in zip(panels.flat, tasks, strict=False):
            ax.axvline(1.0, color=_COLORS[OURS], lw=1.4, zorder=1)
            for name, _, mine in each(runs[runs["task"] == task]):
                if name != OURS:
                    _dots(ax, methods.index(name), mine, _COLORS[name])
            ax.set(title=task, xlabel="ratio", xscale="log")
            _few_ticks(ax)
            ax.grid(axis="y", visible=False)
        first = panels.flat[0]
        first.set_yticks(range(len(methods)), [METHODS[name].label for name in methods])
        first.set_ylim(len(methods) - 0.5, -0.5)


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
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        return
    # Decades would leave it without a number.
    ax.set_xlim(min(low, 0.98), max(high, 1.02))
    low, high = ax.get_xlim()
    kept, apart = [1.0], 0.16 * np.log(high / low)
    # At the very ends a number meets that of the next panel.
    edge = (high / low) ** 0.03
    for x in _RATIOS:
        if low * edge <= x <= high / edge and all(abs(np.log(x / y)) >= apart for y in kept):
            kept.append(x)
    ax.set_xticks(sorted(kept), [f"{x:g}" for x in sorted(kept)])
    ax.minorticks_off()


if __name__ == "__main__":
    draw_all(Folder(RECORDS / "bilevel"), IMAGES, "bilevel-")

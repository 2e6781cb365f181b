"""Draw what a folder of the benchmark has so far.

`starts` has mean, worst and best start of every strategy; `differences` compares selectors.

    python -m benchmarks.federated.plots    # the pictures in docs/images, from the record
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..core.plotting import NARROW, figure
from . import selections, starts
from .methods import RANDOM, SELECTORS
from .selections import MEASURES, Compared
from .starts import Grid, paired

_INK = "#0072B2"


def draw_all(grid: Grid, compared: Compared, folder: Path, prefix: str = "") -> dict[str, Path]:
    """Draw all pictures that have something to show; call it again at any time.

    Args:
        grid: as `starts.starts` gives it.
        compared: as `selections.compared` gives it.
        folder: where to.
        prefix: of the files' names.

    Returns:
        The pictures' files, by what they show.
    """
    made: dict[str, Path] = {}
    if grid:
        made["Mean over the starts, and the worst one"] = folder / f"{prefix}starts.png"
        _starts(folder / f"{prefix}starts.png", grid)
    if compared:
        made["Differences to Random"] = folder / f"{prefix}differences.png"
        _differences(folder / f"{prefix}differences.png", compared)
    return made


def _starts(file: Path, grid: Grid) -> None:
    """Draw mean and worst start of every strategy, a panel for each task."""
    labels = {row.strategy: row.label for rows in grid.values() for row in rows.values()}
    caption = "Circle: mean over the starts. Diamond: worst start. Stroke: best start."
    title = "Mean over the starts, and the worst one"
    with figure(file, 0.3 * len(labels) + 1.7, title, caption, NARROW) as drawn:
        panels = drawn.subplots(1, len(grid), sharey=True, squeeze=False)[0]
        for ax, (task, rows) in zip(panels, grid.items(), strict=True):
            for row in rows.values():
                y = list(labels).index(row.strategy)
                color, size = (_INK, 8.0) if row.strategy == starts.OURS else ("#555555", 6.0)
                best, worst = row.best_accuracy, row.worst_accuracy
                ax.plot([worst, best], [y, y], color=color, lw=1.2, alpha=0.5)
                ax.plot(best, y, "|", color=color, ms=size + 3, mew=1.8)
                ax.plot(worst, y, "D", color=color, ms=size)
                ax.plot(row.mean.mean, y, "o", mfc="white", mec=color, mew=1.8, ms=size)
            ax.set(title=task, xlabel="accuracy, percent")
            ax.grid(axis="y", visible=False)
        _name_rows(panels[0], labels, starts.OURS)


def _differences(file: Path, compared: Compared) -> None:
    """Draw the three deciding numbers less Random's: a row for each, a column for each task."""
    most = max(len(row) for rows in compared.values() for row in rows.values())
    caption = f"Mean over {most} seeds, and its 95 % interval."
    labels = {name: SELECTORS[name][0] for rows in compared.values() for name in rows}
    del labels[RANDOM]
    height = (0.27 * len(labels) + 0.95) * len(selections.DECIDING) + 0.7
    with figure(file, height, "Less Random, paired by seed", caption, NARROW) as drawn:
        shape = (len(selections.DECIDING), len(compared))
        panels = drawn.subplots(*shape, sharey=True, squeeze=False)
        for line, measure in zip(panels, selections.DECIDING, strict=True):
            side = "left is steadier" if measure in selections.LESS else "right is better"
            for ax, (task, rows) in zip(line, compared.items(), strict=True):
                for y, name in enumerate(labels):
                    if name not in rows:
                        continue
                    found = paired(rows[name][measure], rows[RANDOM][measure])
                    half = np.nan_to_num(found.half_width())
                    color = _INK if name == selections.OURS else "#555555"
                    look: Any = {"fmt": "o", "color": color, "ms": 5, "lw": 1.8, "capsize": 3}
                    ax.errorbar(found.mean, y, xerr=half, **look)
                ax.axvline(0, color="#444444", lw=0.9, zorder=1)
                ax.set(title=f"{task}: {side}", xlabel=f"{MEASURES[measure]}, points")
            _name_rows(line[0], labels, selections.OURS)


def _name_rows(ax: Axes, labels: Mapping[str, str], ours: str) -> None:
    ax.set_yticks(range(len(labels)), [textwrap.fill(text, 22) for text in labels.values()])
    ax.set_ylim(len(labels) - 0.5, -0.5)
    for tick, name in zip(ax.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if name == ours else "normal")


if __name__ == "__main__":
    from ..core.page import IMAGES
    from .analysis import RECORD, found_in
    from .study import Folder

    grid, chosen = found_in(Folder(RECORD))
    draw_all(grid, selections.compared(chosen), IMAGES, "federated-")

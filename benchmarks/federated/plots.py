"""Draw what a folder of the benchmark has so far into its `plots`.

`gain-<task>` and `accuracy-<task>` are heat maps over the grid of starts, `starts` has mean
and worst cell of every strategy; `differences`, `late`, `curves` and `bytes` are of selectors.
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from ..compare import axes
from . import grid_plots, selection_plots
from .findings import Findings
from .selections import runs
from .units import Folder


def draw_all(folder: Folder, found: Findings) -> dict[str, Path]:
    """Draw all pictures that have something to show; call it again at any time.

    Args:
        folder: of a finished or unfinished run.
        found: its findings.

    Returns:
        The picture's file by its name.
    """
    figures: dict[str, Figure] = {}
    with mpl.rc_context(axes.STYLE):
        for task in dict.fromkeys(row.task for row in found.rates):
            mine = [row for row in found.rates if row.task == task]
            figures[f"accuracy-{task}"] = grid_plots.accuracies(mine)
            if len(mine) > 1:
                figures[f"gain-{task}"] = grid_plots.gains(mine)
        if found.rates:
            figures["starts"] = grid_plots.starts(found.rates)
        if found.selection:
            figures["differences"] = selection_plots.differences(found.selection)
            figures["late"] = selection_plots.late(found.selection)
            figures["curves"] = selection_plots.curves(found.selection, runs(folder))
            figures["bytes"] = selection_plots.traffic(found.selection)
        return {
            name: axes.save(figure, folder.path / "plots" / f"{name}.png")
            for name, figure in figures.items()
        }

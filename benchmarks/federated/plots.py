"""Draw what a folder of the benchmark has so far.

`gain-<task>` and `accuracy-<task>` are heat maps over the grid of starts, `starts` has mean
and worst start of every strategy; `differences`, `late`, `curves` and `bytes` are of selectors.

    python -m benchmarks.federated.plots    # the pictures in docs/images, from the record
"""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from ..core.plotting import figure, legend, plain
from . import selections, starts
from .methods import PLAIN, RANDOM, SELECTORS
from .selections import MEASURES, Compared
from .starts import Grid, Starts, paired
from .study import GLOBAL_RATES, LOCAL_RATES

_INK = "#0072B2"
# Points beyond which a gain's colour no longer changes: most of what is told is near zero.
_MOST = 20.0
# Okabe and Ito's and Tol's: apart for colour-blind eyes, and dashes tell the lines apart too.
_LOOKS: dict[str, tuple[str, Any]] = {
    RANDOM: ("#000000", "-"),
    "power-of-choice": ("#D55E00", (0, (5, 1.5))),
    "oort": ("#CC79A7", (0, (1.5, 1.2))),
    "oort-without-system": ("#E69F00", (0, (6, 1.5, 1.5, 1.5))),
    selections.OURS: (_INK, "-"),
    "hetero-select-reconstruction": ("#44AA99", (0, (5, 1.5))),
    "hetero-select-v2": ("#882255", (0, (1.5, 1.2))),
}


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

    def file(name: str, text: str) -> Path:
        made[text] = folder / f"{prefix}{name}.png"
        return made[text]

    for task, rows in grid.items():
        _accuracies(file(f"accuracy-{task}", f"Accuracy from every start, {task}"), task, rows)
        if len(rows) > 1:
            _gains(file(f"gain-{task}", f"Gain over FedAvg, {task}"), task, rows)
    if grid:
        _starts(file("starts", "Mean over the starts, and the worst one"), grid)
    if compared:
        _differences(file("differences", "Differences to Random"), compared)
        _late(file("late", "Last accuracy and late deviation, every seed"), compared)
        _curves(file("curves", "Accuracy by round, mean over seeds"), compared)
        _bytes(file("bytes", "Bytes of a run, probes included"), compared)
    return made


def _accuracies(file: Path, task: str, rows: Mapping[str, Starts]) -> None:
    values = [row.cells for row in rows.values()]
    colors = ("viridis", Normalize(np.min(values), np.max(values)))
    title = f"Accuracy from every start, percent: {task}"
    _maps(file, title, list(rows.values()), values, colors, "{:.0f}".format)


def _gains(file: Path, task: str, rows: Mapping[str, Starts]) -> None:
    others = [row for row in rows.values() if row.strategy != PLAIN]
    values = [[gain.mean for gain in row.gains.values()] for row in others]
    title = f"Gain over FedAvg from the same start, points: {task}"
    _maps(file, title, others, values, ("RdBu", Normalize(-_MOST, _MOST)), _short)


def _short(gain: float) -> str:
    return f"{gain:+.1f}" if abs(gain) < 9.95 else f"{gain:+.0f}"


def _maps(
    file: Path,
    title: str,
    rows: Sequence[Starts],
    values: Sequence[Iterable[float]],
    colors: tuple[str, Normalize],
    text: Callable[[float], str],
) -> None:
    """Draw one number for every strategy and start."""
    columns = max(5, -(-len(rows) // 2))
    deep = -(-len(rows) // columns)
    caption = (
        "Mean of the last rounds' accuracy, over seeds, by the initial rates beta of the "
        f"clients and alpha of the server. ×: a seed diverged. Colours of gains end at "
        f"{_MOST:g} points."
    )
    with figure(file, 2.0 * deep + 0.9, title, caption) as drawn:
        panels = drawn.subplots(deep, columns, squeeze=False, sharex=True, sharey=True)
        for ax, row, its in zip(panels.flat, rows, values, strict=False):
            _map(ax, row, its, colors, text)
        for ax in panels.flat[len(rows) :]:
            ax.set_axis_off()
        for ax in panels[:, 0]:
            ax.set_ylabel("beta")
        for ax in panels[-1]:
            ax.set_xlabel("alpha")


def _map(
    ax: Axes,
    row: Starts,
    values: Iterable[float],
    colors: tuple[str, Normalize],
    text: Callable[[float], str],
) -> None:
    name, norm = colors
    grid = np.reshape(list(values), (len(LOCAL_RATES), len(GLOBAL_RATES)))
    lost = row.diverged.any().to_numpy().reshape(grid.shape)
    ax.imshow(grid, cmap=name, norm=norm, aspect="auto")
    for (y, x), value in np.ndenumerate(grid):
        red, green, blue, _ = mpl.colormaps[name](float(norm(value)))
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        written = text(value) + ("×" if lost[y, x] else "")
        number = ax.text(x, y, written, ha="center", va="center", fontsize=6.2, color=ink)
        # It lies within the panel: there is no room to be found for it.
        number.set_in_layout(False)
    weight = "bold" if row.strategy == starts.OURS else "normal"
    ax.set_title(textwrap.fill(row.label, 19), fontsize=8.5, fontweight=weight)
    ax.grid(visible=False)
    ax.tick_params(labelsize=8, length=2)
    ax.set_yticks(range(len(LOCAL_RATES)), [f"{rate:g}" for rate in LOCAL_RATES])
    # The panels are narrow: no room for the zero of 0.5.
    bare = [f"{rate:g}".removeprefix("0") for rate in GLOBAL_RATES]
    ax.set_xticks(range(len(GLOBAL_RATES)), bare)


def _starts(file: Path, grid: Grid) -> None:
    """Draw mean and worst start of every strategy, a panel for each task."""
    labels = {row.strategy: row.label for rows in grid.values() for row in rows.values()}
    caption = "Circle: mean over the starts. Diamond: worst start. Stroke: best start."
    title = "Mean over the starts, and the worst one"
    with figure(file, 0.3 * len(labels) + 1.9, title, caption) as drawn:
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
    """Draw the three deciding numbers less Random's."""
    caption = f"Mean over seeds and its 95 % interval; {_seeds(compared)}."
    measures = dict.fromkeys(selections.DECIDING, "points")
    with _panels(file, "Less Random, paired by seed", caption, compared, measures) as panels:
        for ax, y, color, values, random in panels:
            if values is not random:
                found = paired(values, random)
                half = np.nan_to_num(found.half_width())
                look: Any = {"fmt": "o", "color": color, "ms": 6, "lw": 1.8, "capsize": 3}
                ax.errorbar(found.mean, y, xerr=half, **look)
            ax.axvline(0, color="#444444", lw=0.9, zorder=1)


def _late(file: Path, compared: Compared) -> None:
    """Draw last accuracy and late deviation of every seed."""
    caption = f"Strokes: seeds. Circle: their mean; {_seeds(compared)}."
    measures = {"last": "percent", "late_deviation": "points"}
    title = "Last accuracy and late standard deviation"
    with _panels(file, title, caption, compared, measures) as panels:
        for ax, y, color, values, _ in panels:
            ax.plot(values, [y] * len(values), "|", color=color, ms=9, alpha=0.45)
            ax.plot(values.mean(), y, "o", color=color, ms=7, mec="white")


@contextmanager
def _panels(
    file: Path, title: str, caption: str, compared: Compared, measures: Mapping[str, str]
) -> Iterator[list[tuple[Axes, int, str, pd.Series, pd.Series]]]:
    """Give the panel, line, colour, values and Random's of each task, measure and selector."""
    labels = _labels(compared)
    height = (0.3 * len(labels) + 1.1) * len(compared) + 0.9
    with figure(file, height, title, caption) as drawn:
        panels = drawn.subplots(len(compared), len(measures), sharey=True, squeeze=False)
        lines = []
        for row, (task, rows) in zip(panels, compared.items(), strict=True):
            for ax, (measure, unit) in zip(row, measures.items(), strict=True):
                values = {name: its[measure] for name, its in rows.items()}
                lines += [
                    (ax, list(labels).index(n), _LOOKS[n][0], its, values[RANDOM])
                    for n, its in values.items()
                ]
                side = "left is steadier" if measure in selections.LESS else "right is better"
                ax.set(title=f"{task}: {side}", xlabel=f"{MEASURES[measure]}, {unit}")
            _name_rows(row[0], labels, selections.OURS)
        yield lines


def _curves(file: Path, compared: Compared) -> None:
    """Draw the accuracy by round, mean over seeds, a panel for each task."""
    caption = f"{_seeds(compared)}. The steep beginning is cut off."
    title = "Accuracy by round, mean over seeds"
    with figure(file, 3.0 * len(compared) + 1.0, title, caption) as drawn:
        panels = drawn.subplots(len(compared), 1, squeeze=False)[:, 0]
        for ax, (task, rows) in zip(panels, compared.items(), strict=True):
            most, rounds = 0.0, 1
            for name, row in rows.items():
                mean = np.mean(row["accuracies"].to_list(), axis=0)
                most, rounds = max(most, float(mean.max())), len(mean)
                color, dashes = _LOOKS[name]
                width, level = (2.4, 4) if name == selections.OURS else (1.2, 3)
                ax.plot(
                    np.arange(1, rounds + 1),
                    mean,
                    label=plain(SELECTORS[name][0]),
                    color=color,
                    ls=dashes,
                    lw=width,
                    zorder=level,
                )
            # The first rounds of all are alike, and would squash what differs.
            ax.set(title=task, ylabel="percent", ylim=(max(0.0, most - 45), most + 2))
            ax.set_xlim(0, rounds)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        panels[-1].set_xlabel("round")
        legend(panels[0], handlelength=3.2)


def _bytes(file: Path, compared: Compared) -> None:
    """Draw the bytes of a run both ways, a panel for each task."""
    labels = _labels(compared)
    caption = "Upper bar: to the clients. Lower bar: from them."
    title = "Bytes of a run, probes included"
    with figure(file, 0.36 * len(labels) + 1.9, title, caption) as drawn:
        panels = drawn.subplots(1, len(compared), sharey=True, squeeze=False)[0]
        for ax, (task, rows) in zip(panels, compared.items(), strict=True):
            for name, row in rows.items():
                y = list(labels).index(name)
                ax.barh(y - 0.18, row["bytes_down"].mean() / 1e6, 0.34, color=_INK)
                ax.barh(y + 0.18, row["bytes_up"].mean() / 1e6, 0.34, color="#E69F00")
            ax.set(title=task, xlabel="MB")
            ax.grid(axis="y", visible=False)
        _name_rows(panels[0], labels, selections.OURS)


def _name_rows(ax: Axes, labels: Mapping[str, str], ours: str) -> None:
    ax.set_yticks(range(len(labels)), [textwrap.fill(text, 22) for text in labels.values()])
    ax.set_ylim(len(labels) - 0.5, -0.5)
    for tick, name in zip(ax.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if name == ours else "normal")


def _labels(compared: Compared) -> dict[str, str]:
    return {name: SELECTORS[name][0] for rows in compared.values() for name in rows}


def _seeds(compared: Compared) -> str:
    most = max(len(row) for rows in compared.values() for row in rows.values())
    return f"{most} seed{'s' * (most > 1)}"


if __name__ == "__main__":
    from ..core.page import DOCS
    from ..core.records import record
    from ..selection_scale.study import draw
    from .analysis import RECORD, found_in
    from .study import Folder

    pictures = DOCS / "images"
    grid, chosen = found_in(Folder(RECORD))
    draw_all(grid, selections.compared(chosen), pictures, "federated-")
    draw(record("selection_scale"), pictures / "federated-selection-scale.png")

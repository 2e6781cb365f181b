"""The pictures of the robustness benchmark, drawn from its run folder alone.

`regret-<problem>` shows every method over its starts, `summary` mean and worst regret
over all problems, `learning-rates` where ours goes from each start. Our method is drawn
thick and in front; the axis of regrets is logarithmic away from zero, and runs that are
far off or diverged lie at its right or upper end, marked as such.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..compare import axes
from .methods import LABELS, OURS, PLAIN, START_FREE
from .problems import Problem
from .regret import TOLERANCE, Row, Standing, reference, rows, standings
from .units import Folder, Settings, best_point, start_label, start_place, sweep_place
from .words import percent

# Percent. Regrets above the first are drawn at the second, diverged ones at the third.
_SHOWN, _BEYOND, _DIVERGED = 100.0, 190.0, 360.0
_LOWEST = -30.0
_TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30, 100)
# Okabe and Ito's and Tol's muted colours: apart for colour-blind eyes, and every line has
# a marker and dashes of its own besides.
_INK = "#0072B2"
_COLORS = ["#D55E00", "#CC79A7", "#000000", "#E69F00", "#009E73", *axes.CONTROL]
_MARKERS = "svD^<>Pp*dh"
_DASHES = ["-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))]


def draw_all(folder: Folder) -> dict[str, Path]:
    """Draw what the folder has so far into its `plots`; call it again at any time.

    Args:
        folder: of a finished or unfinished run.

    Returns:
        The picture's file by its name, in the order of the report. One that has nothing
        to show is left out.

    Raises:
        ValueError: if it is no run folder.
    """
    settings, every = folder.settings(), rows(folder)
    with mpl.rc_context(axes.STYLE):
        figures: dict[str, Figure] = {}
        if every:
            figures["summary"] = _summary(standings(every))
        for problem in settings.problems:
            mine = [row for row in every if row.problem == problem.name]
            if mine:
                figures[f"regret-{problem.name}"] = _regret(problem, mine)
        if any(row.method == OURS for row in every):
            figures["learning-rates"] = _learning_rates(folder, settings)
        return {
            name: axes.save(figure, folder.path / "plots" / f"{name}.png")
            for name, figure in figures.items()
        }


def look(method: str) -> dict[str, Any]:
    """Return a method's colour, line and marker, the same in all pictures."""
    if method == OURS:
        return {"color": _INK, "lw": 3.0, "ls": "-", "marker": "o", "ms": 8, "zorder": 5}
    others = [name for name in LABELS if name != OURS]
    i = others.index(method) if method in others else 0
    return {
        "color": _COLORS[i % len(_COLORS)],
        "lw": 1.2,
        "ls": _DASHES[i % len(_DASHES)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "ms": 4.5,
        "zorder": 3,
    }


def place(regret: float) -> float:
    """Return where a regret is drawn: in place, or behind the end of the axis."""
    if not math.isfinite(regret):
        return _DIVERGED
    return _BEYOND if regret > _SHOWN else max(regret, _LOWEST)


def _regret(problem: Problem, mine: Sequence[Row]) -> Figure:
    what = f"{problem.name}: {problem.steps} steps"
    figure = axes.figure(4.6, f"Regret over the initial rate, {what}")
    ax = figure.subplots()
    for i, row in enumerate(mine):
        # Side by side: methods that diverge together would hide each other.
        shift = 1.035 ** (i - (len(mine) - 1) / 2)
        _line(ax, row, shift, look(row.method))
    starts = sorted({cell.start for row in mine for cell in row.cells})
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(starts))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: start_label(x)))
    ax.set(xlabel="initial peak rate, as a multiple of the best of the sweep")
    lowest = min(cell.regret for row in mine for cell in row.cells)
    _regret_axis(ax, ax.yaxis, lowest)
    ax.set_ylabel("regret of the held-out loss")
    ax.axhline(0, color="#444444", lw=0.9, zorder=2)
    ax.axhspan(_LOWEST * 2, TOLERANCE, color=_INK, alpha=0.07, lw=0)
    axes.legend(ax, handlelength=3.2, labelspacing=0.65)
    free = " One run per seed stands for all starts of ° methods." if _free(mine) else ""
    axes.caption(
        figure,
        f"Mean over {mine[0].cells[0].seeds} seeds, bars: standard error. Shaded: up to "
        f"{TOLERANCE:g} %. At the top: above 100 %, and × where a seed diverged.{free}",
    )
    return figure


def _line(ax: Axes, row: Row, shift: float, style: dict[str, Any]) -> None:
    cells = row.cells
    x = np.array([cell.start * shift for cell in cells])
    y = np.array([place(cell.regret) for cell in cells])
    inside = np.array([cell.regret <= _SHOWN for cell in cells])
    bad = np.array([cell.diverged > 0 for cell in cells])
    name = axes.plain(row.label) + ("°" if row.method in START_FREE else "")
    marker = {"marker": style["marker"], "ms": style["ms"]}
    line = {key: value for key, value in style.items() if key not in marker}
    ax.plot(x, y, **line, alpha=0.85)
    # The legend has line and marker; diverged starts have a cross for their marker.
    ax.plot([], [], label=name, **line, **marker)
    dots = {**line, "ls": "none"}
    ax.plot(x[~bad], y[~bad], **dots, **marker)
    ax.plot(x[bad], y[bad], **dots, marker="x", ms=marker["ms"] + 1.5, mew=1.8)
    error = np.nan_to_num(np.array([cell.error for cell in cells]))
    shown = inside & (error > 0)
    if shown.any():
        bars = {"color": style["color"], "zorder": style["zorder"], "fmt": "none"}
        top = np.minimum(error[shown], _BEYOND - y[shown])
        ax.errorbar(x[shown], y[shown], (error[shown], top), capsize=3, lw=1.2, **bars)


def _summary(found: Sequence[Standing]) -> Figure:
    order = sorted(found, key=lambda one: (one.worst, one.mean, one.median))
    problems = max(one.problems for one in found)
    title = f"Mean and worst regret, all starts of {problems} problem{'s' * (problems > 1)}"
    figure = axes.figure(0.42 * len(order) + 1.9, title)
    ax = figure.subplots()
    for y, one in enumerate(order):
        ours = one.method == OURS
        color, size = (_INK, 9) if ours else ("#555555", 6)
        mean, middle, worst = place(one.mean), place(one.median), place(one.worst)
        ends = [min(mean, middle), worst]
        ax.plot(ends, [y, y], color=color, lw=2.2 if ours else 1.0, alpha=0.5, zorder=2)
        ax.plot(middle, y, "|", color=color, ms=size + 5, mew=2, zorder=4)
        ax.plot(worst, y, "D", color=color, ms=size, zorder=3)
        ax.plot(mean, y, "o", mfc="white", mec=color, mew=1.8, ms=size, zorder=4)
        text = f"{percent(one.mean)}, {percent(one.worst)}"
        if one.diverged:
            text = f"{one.diverged} of {one.runs} runs diverged"
        ax.text(1.015, y, text, va="center", color=color, transform=ax.get_yaxis_transform(),
                fontweight="bold" if ours else "normal")  # fmt: skip
    ax.set_yticks(range(len(order)), [axes.label(one.label) for one in order])
    for tick, one in zip(ax.get_yticklabels(), order, strict=True):
        tick.set_fontweight("bold" if one.method == OURS else "normal")
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.text(1.015, 1.0, "mean, worst", va="bottom", fontsize=8.5, color="#444444",
            transform=ax.transAxes)  # fmt: skip
    lowest = min([place(one.mean) for one in found] + [place(one.median) for one in found])
    _regret_axis(ax, ax.xaxis, lowest)
    ax.axvline(0, color="#444444", lw=0.9, zorder=1)
    ax.axvspan(_LOWEST * 2, TOLERANCE, color=_INK, alpha=0.07, lw=0)
    ax.set_xlabel("regret of the held-out loss")
    axes.caption(
        figure,
        f"Circle: mean. Stroke: median. Diamond: worst; rows are in its order. Shaded: up "
        f"to {TOLERANCE:g} %. A mean with a diverged run in it is diverged, too.",
    )
    return figure


def _regret_axis(ax: Axes, axis: Any, lowest: float) -> None:
    """Make an axis of `ax` linear within 1 %, logarithmic beyond, with its two ends named."""
    low = next((tick for tick in _TICKS[::-1] if tick <= min(lowest, -0.5)), _LOWEST)
    ends = (1.25 * low, _DIVERGED * 1.3)
    if axis is ax.yaxis:
        ax.set_yscale("symlog", linthresh=1, linscale=0.7)
        ax.set_ylim(*ends)
    else:
        ax.set_xscale("symlog", linthresh=1, linscale=0.7)
        ax.set_xlim(*ends)
    ticks = [tick for tick in _TICKS if tick >= low]
    # Across, the two ends share one tick: their names would run into each other.
    names = {_BEYOND: ">100 %", _DIVERGED: "diverged"}
    if axis is ax.xaxis:
        ticks.remove(100)
        names = {_BEYOND: ">100 %", _DIVERGED: "\ndiverged"}
    axis.set_major_locator(FixedLocator([*ticks, *names]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda x, _: names.get(x, f"{x:+g} %" if x else "0 %"))
    )


def _free(mine: Sequence[Row]) -> bool:
    return any(row.method in START_FREE for row in mine)


def _learning_rates(folder: Folder, settings: Settings) -> Figure:
    shown = [p for p in settings.problems if reference(folder, p)]
    columns = 2 if len(shown) > 1 else 1
    deep = -(-len(shown) // columns)
    title = f"Where the learning rate of {LABELS[OURS]} goes from each start"
    figure = axes.figure(2.5 * deep + 1.6, title)
    grid = figure.subplots(deep, columns, squeeze=False)
    colors = axes.shades(len(settings.starts))
    for ax, problem in zip(grid.flat, shown, strict=False):
        _trajectories(ax, folder, problem, settings.starts, colors)
    for ax in grid.flat[len(shown) :]:
        ax.set_axis_off()
    for ax in grid[:, 0]:
        ax.set_ylabel("rate / best rate")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="start", handlelength=3)
    axes.caption(
        figure,
        "Rates in effect, in units of the sweep's best peak rate; the mean over replicas "
        "and groups, of seed 0. Dashed: plain DDP at the best rate. A line ends where its "
        "run diverged. The last decades of the decay are cut off.",
    )
    return figure


def _trajectories(
    ax: Axes, folder: Folder, problem: Problem, starts: Sequence[float], colors: Sequence[Any]
) -> None:
    against, best = reference(folder, problem), best_point(folder, problem)
    if against is None or best is None:
        return
    lines = [
        (start_label(start), folder.outcome(problem.name, OURS, start_place(OURS, start), 0))
        for start in starts
    ]
    plain = folder.outcome(problem.name, PLAIN, sweep_place(best), 0)
    looks = [{"color": color, "lw": 1.5} for color in colors]
    looks.append({"color": "#000000", "lw": 1.8, "ls": (0, (4, 1.5)), "zorder": 4})
    peaks = []
    for (name, run), style in zip([*lines, ("DDP at 1", plain)], looks, strict=True):
        rates = np.array(run.lrs if run else [], dtype=float) / against.best_lr
        rates[~(rates > 0)] = np.nan
        ax.plot(run.steps if run else [], rates, label=name, **style)
        if np.isfinite(rates).any():
            peaks += [np.nanmax(rates), np.nanmin(rates[: 1 + 9 * len(rates) // 10])]
    axes.logarithmic(ax)
    ax.set(title=problem.name, xlabel="optimizer step", xlim=(0, problem.steps))
    if peaks:
        ax.set_ylim(max(min(peaks), 1e-4) / 1.5, min(max(peaks), 1e3) * 1.5)

"""The pictures of the robustness benchmark, drawn from its run folder alone.

Our method is drawn thick and in front; the axis of regrets is logarithmic away from zero, and
regrets that are far off lie at its end, marked as such.
"""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..core.plotting import figure, legend, logarithmic, plain
from .analysis import TOLERANCE, cells, label, references, standings
from .methods import LABELS, OURS, PLAIN
from .problems import Problem
from .runs import Runs, start_label, start_point, sweep_point

# Percent. Regrets above the first are drawn at the second.
_SHOWN, _BEYOND = 100.0, 190.0
_LOWEST = -30.0
_TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30, 100)
_MARKERS = "svD^<>Pp*dh"


def draw_all(plots: Path, runs: Runs) -> dict[str, Path]:
    """Draw what the folder has so far; return each picture's file by what it shows."""
    every, drawn = cells(runs), {}
    if every.empty:
        return {}
    drawn["Mean and worst regret of every method"] = _summary(plots, every)
    for problem in runs.settings.problems:
        mine = every[every["problem"] == problem.name]
        if len(mine):
            words = f"Regret over the initial rate, {problem.name}"
            drawn[words] = _regret(plots, problem, mine)
    if OURS in set(every["method"]):
        words = f"Where the rate of {LABELS[OURS]} goes from each start"
        drawn[words] = _learning_rates(plots, runs)
    return drawn


def _look(method: str) -> dict[str, Any]:
    """Return a method's colour, line and marker, the same in all pictures."""
    if method == OURS:
        return {"color": "C0", "lw": 3.0, "marker": "o", "ms": 8, "zorder": 5}
    i = [name for name in LABELS if name != OURS].index(method)
    dashes = ("-", "--", ":", "-.")[i % 4]
    marker = _MARKERS[i % len(_MARKERS)]
    return {"color": f"C{i + 1}", "lw": 1.2, "ls": dashes, "marker": marker, "ms": 4.5}


def _shown(regrets: pd.Series) -> np.ndarray:
    """Return where regrets are drawn: where they are, or behind the end of the axis."""
    inside = np.clip(regrets, _LOWEST, np.inf)
    return np.where(inside > _SHOWN, _BEYOND, inside)


def _regret(plots: Path, problem: Problem, mine: pd.DataFrame) -> Path:
    file = plots / f"regret-{problem.name}.png"
    title = f"Regret over the initial rate, {problem.name}: {problem.steps} steps"
    caption = (
        f"Mean over {mine['seeds'].max()} seeds, bars: standard error. Shaded: up to "
        f"{TOLERANCE:g} %. At the top: above 100 %. One run per seed stands for all starts of "
        f"° methods."
    )
    with figure(file, 4.6, title, caption) as drawn:
        ax = drawn.subplots()
        methods = list(dict.fromkeys(mine["method"]))
        for i, method in enumerate(methods):
            row = mine[mine["method"] == method]
            # Side by side: methods that diverge together would hide each other.
            x = row["start"] * 1.035 ** (i - (len(methods) - 1) / 2)
            y = _shown(row["regret"])
            error = row["error"].where(row["regret"] <= _SHOWN)
            ax.errorbar(
                x, y, yerr=error, capsize=3, label=plain(label(method)), **_look(method)
            )
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(sorted(set(mine["start"]))))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: start_label(x)))
        ax.set(xlabel="initial peak rate, as a multiple of the best of the sweep")
        _regret_axis(ax, ax.yaxis, mine["regret"].min())
        ax.set_ylabel("regret of the held-out loss")
        ax.axhspan(_LOWEST * 2, TOLERANCE, color="C0", alpha=0.07, lw=0)
        legend(ax)
    return file


def _summary(plots: Path, every: pd.DataFrame) -> Path:
    order = standings(every).sort_values(["worst", "mean"])
    problems, file = every["problem"].nunique(), plots / "summary.png"
    title = f"Mean and worst regret, all starts of {problems} problems"
    caption = (
        f"Circle: mean. Diamond: worst; rows are in its order. Shaded: up to {TOLERANCE:g} %. "
        f"A loss is capped at that of the initial weights."
    )
    with figure(file, 0.42 * len(order) + 1.9, title, caption) as drawn:
        ax, rows = drawn.subplots(), np.arange(len(order))
        colors = ["C0" if method == OURS else "#555555" for method in order["method"]]
        mean, worst = (_shown(order[name]) for name in ("mean", "worst"))
        ax.hlines(rows, mean, worst, color=colors, lw=1.2)
        ax.scatter(mean, rows, color=colors, marker="o", zorder=3)
        ax.scatter(worst, rows, color=colors, marker="D", zorder=3)
        ax.set_yticks(rows, [plain(label(method)) for method in order["method"]])
        ax.invert_yaxis()
        _regret_axis(ax, ax.xaxis, mean.min())
        ax.axvspan(_LOWEST * 2, TOLERANCE, color="C0", alpha=0.07, lw=0)
        ax.set_xlabel("regret of the held-out loss")
    return file


def _regret_axis(ax: Axes, axis: Any, lowest: float) -> None:
    """Make an axis of `ax` linear within 1 %, logarithmic beyond, with its end named."""
    low = next((tick for tick in _TICKS[::-1] if tick <= min(lowest, -0.5)), _LOWEST)
    across = axis is ax.xaxis
    (ax.set_xscale if across else ax.set_yscale)("symlog", linthresh=1, linscale=0.7)
    (ax.set_xlim if across else ax.set_ylim)(1.25 * low, _BEYOND * 1.3)
    ticks = [tick for tick in _TICKS if tick >= low and (tick < 100 or not across)]
    axis.set_major_locator(FixedLocator([*ticks, _BEYOND]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda x, _: ">100 %" if x == _BEYOND else f"{x:+g} %" if x else "0 %")
    )


def _learning_rates(plots: Path, runs: Runs) -> Path:
    best = references(runs).set_index("problem")["best_lr"]
    shown = [problem for problem in runs.settings.problems if problem.name in best.index]
    deep, file = -(-len(shown) // 2), plots / "learning-rates.png"
    caption = (
        "Rates in effect, in units of the sweep's best peak rate; the mean over replicas and "
        "groups, of seed 0. Dashed: plain DDP at the best rate. A line ends where its run "
        "diverged. The last decades of the decay are cut off."
    )
    title = f"Where the learning rate of {LABELS[OURS]} goes from each start"
    with figure(file, 2.5 * deep + 1.6, title, caption) as drawn:
        grid = drawn.subplots(deep, min(2, len(shown)), squeeze=False)
        for ax, problem in zip(grid.flat, shown, strict=False):
            _trajectories(ax, runs, problem, best[problem.name])
        for ax in grid.flat[len(shown) :]:
            ax.set_axis_off()
        for ax in grid[:, 0]:
            ax.set_ylabel("rate / best rate")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside right upper", title="start")
    return file


def _trajectories(ax: Axes, runs: Runs, problem: Problem, best_lr: float) -> None:
    starts = runs.settings.starts
    points = [(start_label(s), OURS, start_point(OURS, s)) for s in starts]
    points.append(("DDP at 1", PLAIN, sweep_point(runs.best_point(problem) or 0)))
    shades = [*mpl.colormaps["viridis"](np.linspace(0, 0.92, len(starts))), "black"]
    peaks: list[float] = []
    for (name, method, point), color in zip(points, shades, strict=True):
        run = runs.run(problem.name, method, point, 0)
        rates = np.array(run["lrs"] if run else [], dtype=float) / best_lr
        rates[~(rates > 0)] = math.nan
        style = {"ls": "--", "zorder": 4} if method == PLAIN else {}
        ax.plot(run["steps"] if run else [], rates, label=name, color=color, **style)
        if np.isfinite(rates).any():
            peaks += [np.nanmax(rates), np.nanmin(rates[: 1 + 9 * len(rates) // 10])]
    logarithmic(ax)
    ax.set(title=problem.name, xlabel="optimizer step", xlim=(0, problem.steps))
    if peaks:
        ax.set_ylim(max(min(peaks), 1e-4) / 1.5, min(max(peaks), 1e3) * 1.5)

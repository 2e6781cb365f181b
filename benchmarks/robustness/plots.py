"""The pictures of the robustness benchmark, drawn from its run folder alone.

The axis of regrets is logarithmic away from zero, and regrets that are far off lie at its end,
marked as such.

    python -m benchmarks.robustness.plots    # the summary in docs/images, from the record
"""

import json
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..core.page import IMAGES
from ..core.plotting import NARROW, figure, plain
from ..core.records import RECORDS
from .analysis import TOLERANCE, cells, label, recorded, references, standings
from .methods import LABELS, OURS, PLAIN
from .problems import Problem
from .runs import Runs, start_label, start_point, sweep_point

# Percent. Regrets above the first are drawn at the second.
_SHOWN, _BEYOND = 100.0, 190.0
_LOWEST = -30.0
_TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30)
# The problems whose rates are drawn: a picture of all of them is a page long.
_DRAWN = ("gpt-0.1M", "gpt-0.1M-muon", "fashion-adamw", "gpt-0.1M-free")


def draw_all(plots: Path, runs: Runs) -> dict[str, Path]:
    """Draw what the folder has so far; return each picture's file by what it shows."""
    every, drawn = cells(runs), {}
    if every.empty:
        return {}
    drawn["Mean and worst regret of every method"] = summary(plots / "summary.png", every)
    if OURS in set(every["method"]):
        words = f"Where the rate of {LABELS[OURS]} goes from each start"
        drawn[words] = _learning_rates(plots, runs)
    return drawn


def _shown(regrets: pd.Series) -> np.ndarray:
    """Return where regrets are drawn: where they are, or behind the end of the axis."""
    inside = np.clip(regrets, _LOWEST, np.inf)
    return np.where(inside > _SHOWN, _BEYOND, inside)


def summary(file: Path, every: pd.DataFrame) -> Path:
    """Draw mean and worst regret of every method; return the file."""
    order = standings(every).sort_values(["worst", "mean"])
    problems = every["problem"].nunique()
    title = f"Mean and worst regret, all starts of {problems} problems"
    caption = (
        f"Circle: mean. Diamond: worst; rows are in its order. Shaded: up to {TOLERANCE:g} %. "
        f"A loss is capped at that of the initial weights."
    )
    with figure(file, 0.36 * len(order) + 1.6, title, caption, NARROW) as drawn:
        ax, rows = drawn.subplots(), np.arange(len(order))
        colors = ["C0" if method == OURS else "#555555" for method in order["method"]]
        mean, worst = (_shown(order[name]) for name in ("mean", "worst"))
        ax.hlines(rows, mean, worst, color=colors, lw=1.2)
        ax.scatter(mean, rows, color=colors, marker="o", zorder=3)
        ax.scatter(worst, rows, color=colors, marker="D", zorder=3)
        ax.set_yticks(rows, [plain(label(method)) for method in order["method"]])
        ax.invert_yaxis()
        _regret_axis(ax, mean.min())
        ax.axvspan(_LOWEST * 2, TOLERANCE, color="C0", alpha=0.07, lw=0)
        ax.set_xlabel("regret of the held-out loss")
    return file


def _regret_axis(ax: Axes, lowest: float) -> None:
    """Make the horizontal axis linear within 1 %, logarithmic beyond, with its end named."""
    low = next((tick for tick in _TICKS[::-1] if tick <= min(lowest, 0)), _LOWEST)
    ax.set_xscale("symlog", linthresh=1, linscale=0.7)
    ax.set_xlim(1.25 * low - 0.25, _BEYOND * 1.5)
    ticks = [tick for tick in _TICKS if tick >= low]
    ax.xaxis.set_major_locator(FixedLocator([*ticks, _BEYOND]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: ">100 %" if x == _BEYOND else f"{x:+g} %" if x else "0 %")
    )


def _learning_rates(plots: Path, runs: Runs) -> Path:
    best = references(runs).set_index("problem")["best_lr"]
    swept = [problem for problem in runs.settings.problems if problem.name in best.index]
    shown = [problem for problem in swept if problem.name in _DRAWN] or swept[: len(_DRAWN)]
    deep, file = -(-len(shown) // 2), plots / "learning-rates.png"
    caption = (
        "Rates, without the search's warm-ups, over the best peak rate of the sweep; seed 0. "
        "The last decades of the decay are cut off."
    )
    title = f"Where the learning rate of {LABELS[OURS]} goes from each start"
    with figure(file, 2.0 * deep + 1.6, title, caption, NARROW) as drawn:
        grid = drawn.subplots(deep, min(2, len(shown)), squeeze=False)
        for ax, problem in zip(grid.flat, shown, strict=False):
            _trajectories(ax, runs, problem, best[problem.name])
        for ax in grid.flat[len(shown) :]:
            ax.set_axis_off()
        for ax in grid[:, 0]:
            ax.set_ylabel("rate / best rate")
        grid.flat[0].legend(loc="lower center", fontsize=8)
    return file


def _trajectories(ax: Axes, runs: Runs, problem: Problem, best_lr: float) -> None:
    starts = runs.settings.starts
    points = [(f"from {start_label(s)}", OURS, start_point(OURS, s)) for s in starts]
    points.append(
        ("plain DDP at the best rate", PLAIN, sweep_point(runs.best_point(problem) or 0))
    )
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
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.set(title=problem.name, xlabel="optimizer step", xlim=(0, problem.steps))
    if peaks:
        ax.set_ylim(max(min(peaks), 1e-4) / 1.5, min(max(peaks), 1e3) * 1.5)


if __name__ == "__main__":
    found = json.loads((RECORDS / "robustness" / "summary.json").read_text())
    summary(IMAGES / "robustness-summary.png", recorded(found))

"""The curves of a bilevel run by its cost, drawn from its steps alone.

    descent     the upper level: what the method had, its bound on the exact f, and the exact f
                at both ends
    working     accuracy, step, and the hypergradient with its error bound where there is one

What is made of theta and of images is in `benchmarks.bilevel.runs.pictures`.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...compare import axes
from ...compare.curves import Array, floats, positive
from .folder import Folder, Outcome
from .methods import METHODS
from .pictures import draw_pictures
from .settings import Settings

_BLUE, _ORANGE, _GREEN, _INK = "#0072B2", "#D55E00", "#009E73", "#333333"
# Beyond this ratio of the largest to the smallest, a straight axis hides the small.
_WIDE = 5.0


def draw_all(folder: Folder, outcome: Outcome) -> dict[str, Path]:
    """Draw a complete run into its folder's `plots`; call it again at any time.

    Returns:
        The picture's file by its name: `descent`, `working`, and those of the task.
    """
    settings, steps = folder.settings(), folder.steps()
    columns = {
        name: floats([getattr(step, name) for step in steps])
        for name in ("cost", "value", "bound", "accuracy", "length", "norm", "error_bound")
    }
    with mpl.rc_context(axes.STYLE), np.errstate(all="ignore"):
        figures = {
            "descent": _descent(settings, columns, outcome),
            "working": _working(settings, columns, outcome),
            **draw_pictures(settings, folder.theta()),
        }
        return {
            name: axes.save(figure, folder.path / "plots" / f"{name}.png")
            for name, figure in figures.items()
        }


def _name(settings: Settings) -> str:
    return f"{settings.task}, {METHODS[settings.method]}"


def _descent(settings: Settings, columns: dict[str, Array], outcome: Outcome) -> Figure:
    figure = axes.figure(4.4, f"Upper level: {_name(settings)}")
    ax = figure.subplots()
    cost, ends = columns["cost"], [outcome.before["loss"], outcome.after["loss"]]
    # Where the bound is tight, as it mostly is, both curves must be seen.
    _line(ax, cost, columns["bound"], _ORANGE, "bound: f is not above", lw=3.4, alpha=0.45)
    _line(ax, cost, columns["value"], _BLUE, "at the inexact x")
    ax.plot(
        [0, outcome.counts.cost], ends, "D", color=_INK, ms=5, label="exact f, at both ends"
    )
    values = np.concatenate([columns["value"], ends])
    values = values[np.isfinite(values)]
    if _wide(values):
        axes.logarithmic(ax)
    elif values.size:
        # A bound that is far above, as that of a first rough step, must not squash the rest.
        pad = 0.06 * (values.max() - values.min()) or 0.1 * abs(values.max()) or 0.5
        ax.set_ylim(values.min() - pad, values.max() + pad)
    ax.set(title="Upper level, mean over samples", ylabel="f")
    _costs(ax, outcome)
    axes.legend(ax)
    return figure


def _working(settings: Settings, columns: dict[str, Array], outcome: Outcome) -> Figure:
    panels = [
        ("Accuracy of the lower level, eps", "distance in x", [("accuracy", "", _BLUE, 1.7)]),
        ("Step, alpha", "theta per |z|", [("length", "", _ORANGE, 1.7)]),
        (
            "Hypergradient",
            "f per theta",
            [("norm", "|z|", _GREEN, 1.7), ("error_bound", "bound on its error", _INK, 1.1)],
        ),
    ]
    # A method without a hypergradient has neither it nor a step along it.
    shown = [p for p in panels if p[2][0][0] == "accuracy" or _any(columns[p[2][0][0]])]
    figure = axes.figure(1.0 + 2 * len(shown), f"Accuracy and step: {_name(settings)}")
    grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (title, unit, lines) in zip(grid, shown, strict=True):
        for name, label, color, width in lines:
            if _any(columns[name]):
                _line(ax, columns["cost"], positive(columns[name]), color, label, lw=width)
        if _wide(positive(np.concatenate([columns[line[0]] for line in lines]))):
            axes.logarithmic(ax)
        if lines[0][1]:
            axes.legend(ax)
        ax.set(title=title, ylabel=unit)
    _costs(grid[-1], outcome)
    return figure


def _any(values: Array) -> bool:
    return bool(np.isfinite(values).any())


def _wide(values: Array) -> bool:
    """Whether a straight axis would hide the small among these; NaN is none of them."""
    values = values[np.isfinite(values)]
    return bool(values.size) and 0 < _WIDE * values.min() < values.max()


def _costs(ax: Axes, outcome: Outcome) -> None:
    most = outcome.counts.cost
    ax.set_xlim(-0.02 * most, 1.02 * most)
    ax.set_xlabel("cost: lower gradients, Hessian-vector and mixed products")


def _line(
    ax: Axes,
    cost: Array,
    values: Array,
    color: str,
    label: str = "",
    lw: float = 1.7,
    alpha: float = 1.0,
) -> None:
    mark = "o" if len(values) < 40 else None
    ax.plot(cost, values, color=color, lw=lw, marker=mark, ms=3.2, label=label, alpha=alpha)

"""The five pictures of a comparison, drawn from its run folder alone.

Loss curves, and the rates and the controller of `exploration_plots`, are the paper's
figures 1 to 3 (HDET, arXiv 2604.24708); the base rates and the dots of the final losses
are ours, for the rows and the error bars that the paper lacks. What a run has left so
far is drawn, so that one can look while it goes on.

Losses that are not finite end a curve, huge ones leave it at the top, and both are
marked.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from . import axes
from .curves import (
    Array,
    Curve,
    floats,
    positive,
    read_curves,
    read_exploration,
    smoothing,
)
from .exploration_plots import controller, learning_rates
from .records import RunFolder, Settings

_REFERENCES = ("baseline-low", "hdet-full")


def draw_all(folder: RunFolder) -> dict[str, Path]:
    """Draw what the folder has so far into its `plots`; call it again at any time.

    Args:
        folder: of a finished or unfinished comparison.

    Returns:
        The picture's file by its name: `loss_curves`, `learning_rates`, `controller`,
        `base_lr`, `final_losses`. One that has nothing to show is left out.

    Raises:
        ValueError: if it is no run folder, or no run has begun.
    """
    settings = folder.settings()
    looks = axes.looks(settings.configurations)
    with mpl.rc_context(axes.STYLE), np.errstate(all="ignore"):
        curves = list(read_curves(folder, settings))
        if not curves:
            raise ValueError(
                f"{folder.path} has no run in it yet: there is nothing to draw. Let "
                f"`python -m benchmarks compare` write its first steps."
            )
        figures = {
            "loss_curves": _loss_curves(settings, curves, looks),
            "base_lr": _base_lr(settings, curves, looks),
            "final_losses": _final_losses(folder, settings, looks),
        }
        shown = read_exploration(folder, settings)
        if shown:
            figures["learning_rates"] = learning_rates(settings, shown)
        if shown and shown.syncs.size:
            figures["controller"] = controller(settings, shown)
        return {
            name: axes.save(figure, folder.path / "plots" / f"{name}.png")
            for name, figure in figures.items()
            if figure
        }


def _loss_curves(settings: Settings, curves: list[Curve], looks: axes.Looks) -> Figure:
    paper = [curve for curve in curves if curve.row.role == "paper"]
    control = [curve for curve in curves if curve.row.role != "paper"]
    references = [curve for curve in paper if curve.row.name in _REFERENCES]
    panels = [("The paper's configurations", paper)] if paper else []
    if control:
        title = "Controls, and two of the paper's to compare"
        panels.append((title, references + control))
    figure = axes.figure(3.6 * len(panels) + 0.4, f"Training loss: {settings.title}")
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (title, shown) in zip(column, panels, strict=True):
        low, high = axes.loss_range([curve.loss for curve in shown])
        for curve in shown:
            _loss_curve(ax, curve, high, looks)
        # On a straight axis a fall by an order of magnitude hides all differences.
        if 0 < 8 * low < high:
            axes.logarithmic(ax)
        unit = axes.unit(settings)
        ax.set(title=title, ylabel="training loss" + unit, ylim=(low, high))
        axes.legend(ax)
    column[-1].set(xlabel="optimizer step", xlim=(0, max(len(c.loss) for c in curves)))
    seeds = max(curve.seeds for curve in curves)
    bars = f"{seeds} seeds, band: standard error" if seeds > 1 else "one seed"
    axes.caption(
        figure,
        f"Mean over replicas and {smoothing(settings)} steps; {bars}. "
        f"↑ ends above the plot, × no longer finite.",
    )
    return figure


def _loss_curve(ax: Axes, curve: Curve, high: float, looks: axes.Looks) -> None:
    steps, loss, look = (
        np.arange(1, len(curve.loss) + 1),
        curve.loss,
        looks[curve.row.name],
    )
    finite = np.flatnonzero(np.isfinite(loss))
    stops = not np.isfinite(loss[-1])
    label = axes.label(curve.row.label)
    if finite.size and loss[finite[-1]] > high:
        label += " ↑"
    if stops:
        label += " ×"
    ax.plot(steps, loss, label=label, **look)
    # A band wider than the plot says no more than one that fills it.
    low, top = (np.clip(loss + s * curve.error, -1e12, 1e12) for s in (-1, 1))
    ax.fill_between(steps, low, top, color=look["color"], alpha=0.15, lw=0)
    if stops and finite.size:
        last = steps[finite[-1]], min(loss[finite[-1]], high)
        ax.plot(*last, "x", color=look["color"], ms=8, mew=2, clip_on=False)


def _base_lr(settings: Settings, curves: list[Curve], looks: axes.Looks) -> Figure:
    figure = axes.figure(4.8, f"Base learning rate: {settings.title}")
    ax = figure.subplots()
    # Rows that would cover each other share a line.
    alike: list[list[Curve]] = []
    for curve in curves:
        for group in alike:
            base = group[0].base
            same = base.shape == curve.base.shape
            if same and np.allclose(base, curve.base, 0.05, 0, equal_nan=True):
                group.append(curve)
                break
        else:
            alike.append([curve])
    lines = [positive(group[0].base) for group in alike]
    for line, group in zip(lines, alike, strict=True):
        label = "\n≈ ".join(axes.label(curve.row.label) for curve in group)
        look = looks[group[0].row.name]
        ax.plot(np.arange(1, len(line) + 1), line, label=label, **look)
    axes.logarithmic(ax)
    ax.set(xlabel="optimizer step", ylabel="base learning rate, mean over groups")
    ax.set(xlim=(0, settings.steps), ylim=axes.rate_range(lines))
    axes.legend(ax, labelspacing=0.8)
    return figure


def _final_losses(folder: RunFolder, settings: Settings, looks: axes.Looks) -> Figure | None:
    every = [(row, folder.results(row.name)) for row in settings.configurations]
    rows = [(row, list(found.values())) for row, found in every if found]
    if not rows:
        return None
    calm = floats([x.train_loss for _, found in rows for x in found if not x.diverged])
    wild = floats([x.train_loss for _, found in rows for x in found])
    low, high = axes.dot_range(calm if np.isfinite(calm).any() else wild)
    figure = axes.figure(0.43 * len(rows) + 1.6, f"Final losses: {settings.title}")
    ax = figure.subplots()
    for y, (row, found) in enumerate(rows):
        losses = floats([x.train_loss for x in found])
        fine = np.array([not x.diverged for x in found], dtype=bool)
        _dots(ax, y, losses, fine, high, looks[row.name]["color"])
    names = [axes.label(row.label, 34) for row, _ in rows]
    ax.set_yticks(range(len(rows)), names)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(low, high))
    ax.set_xlabel("final training loss" + axes.unit(settings))
    axes.caption(
        figure,
        "Dots: seeds. Diamond: their mean, with its standard error. × diverged. "
        "→ lies to the right of the plot.",
    )
    return figure


def _dots(
    ax: Axes, y: int, losses: Array, fine: NDArray[np.bool_], high: float, color: str
) -> None:
    inside = losses <= high
    calm, bad = losses[inside & fine], losses[inside & ~fine]
    ax.plot(calm, 0 * calm + y, "o", color=color, ms=5, alpha=0.55, mec="none")
    ax.plot(bad, 0 * bad + y, "x", color="#C00000", ms=7, mew=2)
    mean = losses.mean()
    if mean <= high:
        error = losses.std(ddof=1) / len(losses) ** 0.5 if len(losses) > 1 else 0
        ax.errorbar(mean, y, xerr=error, fmt="D", color=color, ms=5, capsize=4, lw=1.6)
    texts = [
        f"→ {loss:.4g}{'' if calm else ' ×'}" if np.isfinite(loss) else "not finite ×"
        for loss, calm in zip(losses[~inside], fine[~inside], strict=True)
    ]
    if len(texts) > 2:
        # Two are enough to see where a row is.
        texts[2:] = [f"and {len(texts) - 2} more"]
    ink = "#333333" if fine.all() else "#C00000"
    ax.text(1.01, y, "\n".join(texts), va="center", color=ink,
            transform=ax.get_yaxis_transform())  # fmt: skip

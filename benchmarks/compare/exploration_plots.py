"""The two pictures of one run: how far its replicas part, and what the controller does.

One seed of one row is shown: a mean over seeds would wash out what each replica did.
"""

import numpy as np
from matplotlib.figure import Figure

from . import axes
from .curves import Exploration
from .records import Settings


def learning_rates(settings: Settings, shown: Exploration) -> Figure:
    """Draw each replica's rate around the base rate, a panel for each group."""
    groups, replicas = shown.rates.shape[1:]
    columns = min(2, groups)
    lines = -(-groups // columns)
    figure = axes.figure(2.7 * lines + 1.2, f"{shown.row.label}, seed 0")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax in grid.flat[groups:]:
        ax.set_axis_off()
        # The panel above is the lowest of its column.
        grid[-2, -1].tick_params(labelbottom=True)
    start = settings.auto_lr_after if shown.row.auto_lr else settings.steps
    for group, ax in enumerate(grid.flat[:groups]):
        rates = {f"replica {r}": shown.rates[:, group, r] for r in range(replicas)}
        looks = [{"color": color, "lw": 0.8} for color in axes.shades(replicas)]
        rates["base"] = shown.base[:, group]
        looks.append({"color": "black", "lw": 1.8})
        for (label, rate), look in zip(rates.items(), looks, strict=True):
            ax.plot(shown.steps, rate, label=label, drawstyle="steps-post", **look)
        ax.axvspan(0, min(start, settings.steps), color="#888888", alpha=0.12, lw=0)
        ax.plot([], [], color="#888888", alpha=0.3, lw=6, label="OneCycle phase")
        if start < settings.steps:
            label = f"auto-LR from step {start}"
            ax.axvline(start, color="#D55E00", lw=1.3, ls="--", label=label)
        axes.logarithmic(ax)
        ax.set(title=axes.label(settings.groups[group]), xlim=(0, settings.steps))
        ax.set_ylabel("learning rate" if group % columns == 0 else "")
        ax.set_xlabel("optimizer step" if group >= groups - columns else "")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    # As many in each line, and at most six.
    count = -(-len(labels) // -(-len(labels) // 6))
    figure.legend(handles, labels, loc="outside lower center", ncols=count)
    return figure


def controller(settings: Settings, shown: Exploration) -> Figure:
    """Draw what the controller saw at each sync, and what it made of that."""
    count = len(shown.syncs)
    figure = axes.figure(9.2, f"{shown.row.label}, seed 0: {count} syncs")
    replicas = shown.gaps.shape[1]
    names = [f"replica {r}" for r in range(replicas)]
    shades = axes.shades(replicas)
    groups = [axes.label(name) for name in settings.groups]
    gap = "loss minus mean" + axes.unit(settings)
    panels = [
        ("Replica losses", gap, shown.gaps, 0),
        ("Softmax weights (dotted: all equal)", "weight", shown.weights, 1 / replicas),
        ("Pull on the base rate", "delta / base rate (%)", shown.pulls, 0),
        ("Distance from the average", "distance (%)", shown.divergence, None),
    ]
    column = figure.subplots(4, 1, sharex=True)
    for ax, (title, unit, table, level) in zip(column, panels, strict=True):
        of_groups = table is shown.pulls
        acts = of_groups or table is shown.weights
        labels, colors = (groups, axes.CONTROL) if of_groups else (names, shades)
        for j, label in enumerate(labels):
            look = {"color": colors[j % len(colors)], "lw": 1, "ms": 3, "label": label}
            ax.plot(shown.syncs, table[:, j], marker="o" if count <= 40 else "", **look)
        ax.set(title=title, ylabel=unit, xlim=(0, 1.01 * settings.steps))
        if acts and not np.isfinite(table).any():
            ax.set(yticks=[])
            ax.text(0.5, 0.5, _nothing(settings, shown), ha="center", va="center",
                    transform=ax.transAxes)  # fmt: skip
            continue
        if level is not None:
            ax.axhline(level, color="#666666", lw=1, ls=":")
        if of_groups or table is shown.gaps:
            axes.legend(ax)
    column[-1].set(xlabel="optimizer step", ylim=(0, None))
    return figure


def _nothing(settings: Settings, shown: Exploration) -> str:
    """Say why a panel of the controller's is empty."""
    if not shown.row.auto_lr:
        return "This configuration has no controller."
    return (
        f"The controller has not acted in this run:\nit may from step "
        f"{settings.auto_lr_after} on, at every {settings.sync_every}th step."
    )

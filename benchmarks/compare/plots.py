"""The pictures of a comparison, drawn from its run folder alone.

Loss curves, and one run's rates and controller, are the paper's figures 1 to 3 (HDET,
arXiv 2604.24708); base rates and the dots of the final losses are ours, for the rows and the
error bars that the paper lacks. What a run has left so far is drawn, so that one can look
while it goes on. A range is that of the runs that learn: one that diverges leaves its plot.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hdet.report.figure import COLOURS

from ..core.plotting import figure, legend, logarithmic, plain
from .records import Configuration, RunFolder, Settings

_REFERENCES = ("baseline-low", "hdet-full")


def draw_all(folder: RunFolder) -> dict[str, Path]:
    """Draw what the folder has so far into its `plots`; call it again at any time.

    Returns:
        The picture's file by what it shows in words.
    """
    settings = folder.plan()
    curves = {row.name: curve for row, curve in _curves(folder, settings)}
    if not curves:
        return {}
    plots = folder.path / "plots"
    drawn = {
        "Training loss of every configuration": _losses(plots, settings, curves),
        "Base learning rate of every configuration": _rates(plots, settings, curves),
    }
    if any(folder.results(row.name) for row in settings.configurations):
        drawn["Final losses by seed"] = _final_losses(plots, folder, settings)
    explorers = [r for r in settings.configurations if r.spread > 0 and r.name in curves]
    if explorers:
        row = max(explorers, key=lambda row: row.name == "hdet-full")
        drawn["Every replica's learning rate"] = _replica_rates(plots, folder, settings, row)
        drawn["What the controller saw and did"] = _controller(plots, folder, settings, row)
    return drawn


def to_hover(folder: RunFolder) -> dict[str, Any]:
    """Return rate and loss of every configuration, as the figures of `hdet.report`."""
    settings = folder.plan()
    runs = [
        {
            "name": row.label,
            "colour": COLOURS[number % len(COLOURS)],
            "dash": "solid" if row.role == "paper" else "dash",
            "x": curve.index.tolist(),
            "curves": [
                {"panel": panel, "kind": "base", "replicas": [], "y": _known(curve[name])}
                for panel, name in enumerate(("rate", "loss"))
            ],
        }
        for number, (row, curve) in enumerate(_curves(folder, settings))
    ]
    panels = [{"title": "base learning rate", "log": True}, {"title": "loss", "clip": True}]
    return {"x": "optimizer step", "panels": panels, "runs": runs}


def _known(column: pd.Series) -> list[float | None]:
    return [float(f"{y:.5g}") if np.isfinite(y) else None for y in column]


def _curves(
    folder: RunFolder, settings: Settings
) -> Iterator[tuple[Configuration, pd.DataFrame]]:
    """Yield each configuration that has begun, with `loss`, `error` and `rate` by step."""
    window = max(1, settings.steps // 50)
    for row in settings.configurations:
        runs = []
        for seed in range(settings.seeds):
            lines = [
                (line["step"], np.mean(line["losses"]), np.mean(line["base_lr"]))
                for line in folder.lines(row.name, seed, "step")
            ]
            run = pd.DataFrame(lines, columns=["step", "loss", "rate"]).set_index("step")
            # One huge loss would never leave a running sum.
            smooth = run["loss"].clip(upper=1e6).rolling(window, min_periods=1).mean()
            run["loss"] = smooth.where(np.isfinite(run["loss"]))
            runs.append(run)
        if any(map(len, runs)):
            losses = pd.concat([run["loss"] for run in runs if len(run)], axis=1)
            rates = pd.concat([run["rate"] for run in runs if len(run)], axis=1)
            # A seed that is not finite ends the mean: that of the others would look better.
            yield (
                row,
                pd.DataFrame(
                    {
                        "loss": losses.mean(axis=1).where(losses.notna().all(axis=1)),
                        "error": losses.sem(axis=1),
                        "rate": rates.mean(axis=1),
                    }
                ),
            )


def _styles(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return each row's colour and line by its name: dashes are controls."""
    return {
        row.name: {"color": f"C{i}", "ls": "-" if row.role == "paper" else "--", "lw": 1.5}
        for i, row in enumerate(settings.configurations)
    }


def _losses(plots: Path, settings: Settings, curves: dict[str, pd.DataFrame]) -> Path:
    labels = {row.name: row for row in settings.configurations}
    styles = _styles(settings)
    paper = [name for name in curves if labels[name].role == "paper"]
    control = [name for name in curves if labels[name].role != "paper"]
    references = [name for name in paper if name in _REFERENCES]
    panels = [("The paper's configurations", paper)] if paper else []
    if control:
        panels.append(("Controls, and two of the paper's to compare", references + control))
    file = plots / "loss_curves.png"
    height = 3.6 * len(panels) + 0.4
    caption = (
        f"Mean over replicas and {max(1, settings.steps // 50)} steps; band: standard error "
        f"over {settings.seeds} seeds. × no longer finite."
    )
    with figure(file, height, f"Training loss: {settings.title}", caption) as drawn:
        for ax, (title, names) in zip(
            drawn.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0],
            panels,
            strict=True,
        ):
            for name in names:
                curve = curves[name]
                lost = " ×" if curve["loss"].isna().iloc[-1] else ""
                loss, error = curve["loss"], curve["error"]
                ax.plot(loss, label=plain(labels[name].label) + lost, **styles[name])
                color = styles[name]["color"]
                ax.fill_between(
                    curve.index, loss - error, loss + error, color=color, alpha=0.15, lw=0
                )
            ax.set(title=title, ylabel="training loss", xlim=(0, settings.steps))
            _range(ax, [curves[name]["loss"] for name in names])
            legend(ax)
        drawn.axes[-1].set_xlabel("optimizer step")
    return file


def _range(ax: Axes, losses: list[pd.Series]) -> None:
    """Show the runs that learn, without their steep first fifth."""
    lines = [loss.to_numpy() for loss in losses]
    start = np.median([line[0] for line in lines if np.isfinite(line[0])] or [np.nan])
    learning = [line for line in lines if line[-1] <= start] or lines
    shown = np.concatenate([line[len(line) // 5 :] for line in learning])
    if np.isfinite(shown).any():
        low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
        pad = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
        ax.set_ylim(low - pad, high + pad)


def _rates(plots: Path, settings: Settings, curves: dict[str, pd.DataFrame]) -> Path:
    labels = {row.name: row.label for row in settings.configurations}
    styles, file = _styles(settings), plots / "base_lr.png"
    with figure(file, 4.8, f"Base learning rate: {settings.title}") as drawn:
        ax = drawn.subplots()
        for name, curve in curves.items():
            ax.plot(
                curve["rate"].where(curve["rate"] > 0),
                label=plain(labels[name]),
                **styles[name],
            )
        logarithmic(ax)
        ax.set(xlabel="optimizer step", ylabel="base learning rate, mean over groups")
        legend(ax)
    return file


def _final_losses(plots: Path, folder: RunFolder, settings: Settings) -> Path:
    rows = [(row, folder.results(row.name)) for row in settings.configurations]
    rows = [(row, list(found.values())) for row, found in rows if found]
    styles, file = _styles(settings), plots / "final_losses.png"
    caption = "Dots: seeds. Diamond: their mean, with its standard error. × diverged."
    title = f"Final losses: {settings.title}"
    calm = [x.train_loss for _, found in rows for x in found if not x.diverged]
    with figure(file, 0.43 * len(rows) + 1.6, title, caption) as drawn:
        ax = drawn.subplots()
        for y, (row, found) in enumerate(rows):
            losses, color = pd.Series([x.train_loss for x in found]), styles[row.name]["color"]
            wild = pd.Series([x.diverged for x in found])
            ax.plot(losses[~wild], [y] * (~wild).sum(), "o", color=color, alpha=0.55)
            ax.plot(losses[wild], [y] * wild.sum(), "x", color="#C00000", mew=2)
            ax.errorbar(losses.mean(), y, xerr=losses.sem(), fmt="D", color=color, capsize=4)
            if wild.any():
                text = f"{wild.sum()} diverged"
                ax.text(
                    1.01,
                    y,
                    text,
                    va="center",
                    color="#C00000",
                    transform=ax.get_yaxis_transform(),
                )
        if calm:
            pad = 0.08 * (max(calm) - min(calm)) or 0.1
            ax.set_xlim(min(calm) - pad, max(calm) + pad)
        ax.set_yticks(range(len(rows)), [plain(row.label) for row, _ in rows])
        ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="final training loss")
    return file


def _replica_rates(
    plots: Path, folder: RunFolder, settings: Settings, row: Configuration
) -> Path:
    """Draw each replica's rate around the base rate in seed 0, a panel for each group."""
    lines = list(folder.lines(row.name, 0, "step"))
    steps = [line["step"] for line in lines]
    groups, replicas = np.shape(lines[0]["replica_lr"])
    columns = min(2, groups)
    file, height = plots / "learning_rates.png", 2.7 * -(-groups // columns) + 1.2
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.92, replicas))
    with figure(file, height, f"{row.label}, seed 0") as drawn:
        grid = drawn.subplots(
            -(-groups // columns), columns, sharex=True, sharey=True, squeeze=False
        )
        for ax in grid.flat[groups:]:
            ax.set_axis_off()
        for group, ax in enumerate(grid.flat[:groups]):
            rates = np.array([line["replica_lr"][group] for line in lines])
            for r in range(replicas):
                ax.step(steps, rates[:, r], color=shades[r], lw=0.8, label=f"replica {r}")
            base = [line["base_lr"][group] for line in lines]
            ax.step(steps, base, color="black", lw=1.8, label="base")
            if row.auto_lr:
                ax.axvline(settings.auto_lr_after, color="C1", ls="--", label="auto-LR begins")
            logarithmic(ax)
            ax.set(title=plain(settings.groups[group]), xlabel="optimizer step")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=6)
    return file


def _controller(plots: Path, folder: RunFolder, settings: Settings, row: Configuration) -> Path:
    """Draw what the controller saw at each sync of seed 0, and what it made of that."""
    syncs = [line for line in folder.lines(row.name, 0, "sync") if line.get("losses")]
    steps = [line["step"] for line in syncs]
    losses = pd.DataFrame([line["losses"] for line in syncs], dtype=float)
    sizes = {"weights": settings.replicas, "delta": len(settings.groups)}
    # The controller's are absent until it has acted.
    acted = {
        key: pd.DataFrame([line.get(key) or [np.nan] * size for line in syncs], dtype=float)
        for key, size in sizes.items()
    }
    divergence = pd.DataFrame([line["divergence"] for line in syncs], dtype=float)
    panels = {
        "Replica losses, less their mean": losses.sub(losses.mean(axis=1), axis=0),
        "Softmax weights": acted["weights"],
        "Pull on each group's base rate (delta)": acted["delta"],
        "Distance from the average, %": 100 * divergence,
    }
    file, title = plots / "controller.png", f"{row.label}, seed 0: {len(syncs)} syncs"
    with figure(file, 9.2, title) as drawn:
        for ax, (name, values) in zip(
            drawn.subplots(len(panels), 1, sharex=True), panels.items(), strict=True
        ):
            what = "group" if "group" in name else "replica"
            for column in values:
                ax.plot(steps, values[column], lw=1, label=f"{what} {column}")
            ax.set_title(name)
            if len(values.columns):
                legend(ax)
        drawn.axes[-1].set_xlabel("optimizer step")
    return file

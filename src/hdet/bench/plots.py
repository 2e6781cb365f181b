"""The five pictures of a comparison, drawn from its run folder alone.

Loss curves, learning rates and the controller are the paper's figures 1 to 3 (HDET,
arXiv 2604.24708); the base rates and the dots of the final losses are ours, for the
rows and the error bars that the paper lacks. What a run has left so far is drawn, so
that one can look while it goes on.

A run that diverges is part of the result and must not spoil the picture: losses that
are not finite end a curve, huge ones leave it at the top, and both are marked.

Only `matplotlib.figure.Figure` is used, never pyplot: no window, no list of figures.
"""

import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from .records import Configuration, RunFolder, Settings

Array = NDArray[np.float64]

# Inches; at 100 dots each a page shows the picture 900 pixels wide.
_WIDTH = 9.0
_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}
# Okabe and Ito's colours for the paper's rows, Tol's muted ones for controls: both sets
# stay apart for colour-blind eyes, and dashes keep the sets apart from each other.
_PAPER = ["#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#009E73", "#000000"]
_CONTROL = ["#882255", "#44AA99", "#AA4499", "#999933", "#332288", "#CC6677"]
_DASHES = [(0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))]
_REFERENCES = ("baseline-low", "hdet-full")


@dataclass(frozen=True)
class _Curve:
    """One configuration over the steps: means over its seeds, NaN for none."""

    row: Configuration
    look: dict[str, Any]
    loss: Array
    error: Array
    base: Array
    seeds: int


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
    with mpl.rc_context(_STYLE), np.errstate(all="ignore"):
        curves = list(_curves(folder, settings))
        if not curves:
            raise ValueError(
                f"{folder.path} has no run in it yet: there is nothing to draw. Let "
                f"`hdet compare` write its first steps."
            )
        shown = _explorer(folder, settings)
        figures = {
            "loss_curves": _loss_curves(settings, curves),
            "learning_rates": _learning_rates(folder, settings, shown),
            "controller": _controller(folder, settings, shown),
            "base_lr": _base_lr(settings, curves),
            "final_losses": _final_losses(folder, settings),
        }
        drawn = {name: figure for name, figure in figures.items() if figure}
        return {
            name: _save(figure, folder.path / "plots" / f"{name}.png")
            for name, figure in drawn.items()
        }


# ------------------------------------------------------------------------ reading


def _curves(folder: RunFolder, settings: Settings) -> Iterator[_Curve]:
    looks = _looks(settings.configurations)
    for row in settings.configurations:
        # Each file is read once, and of a step only what is drawn is kept.
        runs = [
            [
                (line["step"], _mean(line["losses"]), _mean(line["base_lr"]))
                for line in folder.lines(row.name, seed, "step")
            ]
            for seed in range(settings.seeds)
        ]
        runs = [np.array(run, dtype=float) for run in runs if run]
        if runs:
            window = max(1, settings.steps // 50)
            losses = [_smooth(_by_step(run[:, 0], run[:, 1]), window) for run in runs]
            loss, error = _over_seeds(losses)
            base, _ = _over_seeds([_by_step(run[:, 0], run[:, 2]) for run in runs])
            yield _Curve(row, looks[row.name], loss, error, base, len(runs))


def _looks(rows: Sequence[Configuration]) -> dict[str, dict[str, Any]]:
    """Return each row's colour and line, the same in all pictures."""
    looks = {}
    paper = [row.name for row in rows if row.role == "paper"]
    control = [row.name for row in rows if row.role != "paper"]
    for i, name in enumerate(paper):
        looks[name] = {"color": _PAPER[i % len(_PAPER)], "lw": 1.7, "ls": "-"}
    for i, name in enumerate(control):
        dashes = _DASHES[i % len(_DASHES)]
        looks[name] = {"color": _CONTROL[i % len(_CONTROL)], "lw": 1.2, "ls": dashes}
    return looks


def _floats(values: Any) -> Array:
    """Return an array with NaN for everything that is not finite, null included."""
    array = np.array(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def _mean(values: Sequence[float | None]) -> float:
    return float(_floats(values).mean())


def _by_step(steps: Array, values: Array) -> Array:
    """Return the values with that of step k at place k - 1."""
    line = np.full(int(steps.max()), np.nan)
    line[steps.astype(int) - 1] = values
    return line


def _smooth(line: Array, window: int) -> Array:
    """Return the mean over the last `window` values; NaN stays, and counts for none."""
    # Summed per window: a running sum would never get rid of one huge loss.
    finite, ones = np.isfinite(line), np.ones(window)
    total = np.convolve(np.where(finite, line, 0), ones)[: len(line)]
    count = np.convolve(finite, ones)[: len(line)]
    return np.where(finite, total / count, np.nan)


def _over_seeds(lines: list[Array]) -> tuple[Array, Array]:
    """Return mean and standard error over the seeds that have got as far as each step.

    A seed that is not finite makes both NaN: a mean of the survivors would look better
    than the configuration is.
    """
    table = np.zeros((len(lines), max(map(len, lines))))
    reached = np.zeros(table.shape, dtype=bool)
    for row, line in enumerate(lines):
        table[row, : len(line)], reached[row, : len(line)] = line, True
    count = reached.sum(axis=0)
    mean = table.sum(axis=0) / count
    squares = np.where(reached, (table - mean) ** 2, 0).sum(axis=0)
    return mean, np.sqrt(squares / (count - 1) / count)


def _explorer(folder: RunFolder, settings: Settings) -> Configuration | None:
    """Return the row whose seed 0 shows how the exploration goes."""
    rows = [row for row in settings.configurations if row.spread > 0]
    rows.sort(key=lambda row: row.name != "hdet-full")
    for row in rows:
        if next(folder.lines(row.name, 0, "step"), None):
            return row
    return None


# ------------------------------------------------------------------------ drawing


def _loss_curves(settings: Settings, curves: list[_Curve]) -> Figure:
    paper = [c for c in curves if c.row.role == "paper"]
    control = [c for c in curves if c.row.role != "paper"]
    references = [c for c in paper if c.row.name in _REFERENCES]
    panels = [("The paper's configurations", paper)]
    if control:
        panels.append(
            ("Controls, and two of the paper's to compare", references + control)
        )
    panels = [panel for panel in panels if panel[1]]
    figure = _figure(
        3.6 * len(panels) + 0.4, f"Training loss: {_one_line(settings.title)}"
    )
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (title, shown) in zip(axes, panels, strict=True):
        low, high = _loss_range([curve.loss for curve in shown])
        for curve in shown:
            _loss_curve(ax, curve, high)
        # On a straight axis a fall by an order of magnitude hides all differences.
        if 0 < 8 * low < high:
            _logarithmic(ax)
        ax.set(title=title, ylabel="training loss" + _unit(settings), ylim=(low, high))
        _legend(ax)
    axes[-1].set(xlabel="optimizer step", xlim=(0, max(len(c.loss) for c in curves)))
    seeds = max(curve.seeds for curve in curves)
    _caption(
        figure,
        f"Mean over replicas and {max(1, settings.steps // 50)} steps; "
        + (f"{seeds} seeds, band: standard error. " if seeds > 1 else "one seed. ")
        + "↑ ends above the plot, × no longer finite.",
    )
    return figure


def _loss_curve(ax: Axes, curve: _Curve, high: float) -> None:
    steps, loss = np.arange(1, len(curve.loss) + 1), curve.loss
    finite = np.flatnonzero(np.isfinite(loss))
    leaves = finite.size > 0 and loss[finite[-1]] > high
    stops = finite.size < len(loss) and not np.isfinite(loss[-1])
    marks = (" ↑" if leaves else "") + (" ×" if stops else "")
    ax.plot(steps, loss, label=_label(curve.row.label) + marks, **curve.look)
    # A band wider than the plot says no more than one that fills it.
    low, top = (np.clip(loss + s * curve.error, -1e12, 1e12) for s in (-1, 1))
    ax.fill_between(steps, low, top, color=curve.look["color"], alpha=0.15, lw=0)
    if stops and finite.size:
        last = finite[-1]
        color = curve.look["color"]
        ax.plot(
            last + 1,
            min(loss[last], high),
            "x",
            color=color,
            ms=8,
            mew=2,
            clip_on=False,
        )


def _loss_range(losses: list[Array]) -> tuple[float, float]:
    """Return the y-range of the runs that learn, without their steep first fifth."""
    start = np.nanmedian([line[0] for line in losses])
    learning = [line for line in losses if line[-1] <= start]
    tails = [line[len(line) // 5 :] for line in learning or losses]
    values = np.concatenate(tails)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    # Where nothing learns, the top quarter is what would squash the rest.
    low, high = values.min(), np.quantile(values, 1 if learning else 0.75)
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
    return max(low - pad, 0.8 * low if low > 0 else -np.inf), high + pad


def _learning_rates(
    folder: RunFolder, settings: Settings, row: Configuration | None
) -> Figure | None:
    if row is None:
        return None
    lines = list(folder.lines(row.name, 0, "step"))
    steps = np.array([line["step"] for line in lines])
    base = _positive([line["base_lr"] for line in lines])
    rates = _positive([line["replica_lr"] for line in lines])
    count = base.shape[1]
    columns = min(2, count)
    high = -(-count // columns)
    figure = _figure(2.7 * high + 1.2, f"{_one_line(row.label)}, seed 0")
    axes = figure.subplots(high, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
        # The panel above is the lowest of its column.
        axes[-2, -1].tick_params(labelbottom=True)
    for group, ax in enumerate(axes.flat[:count]):
        for replica, color in enumerate(_shades(rates.shape[2])):
            label = f"replica {replica}"
            ax.plot(
                steps, rates[:, group, replica], color=color, lw=0.8, label=label,
                drawstyle="steps-post",
            )  # fmt: skip
        ax.plot(
            steps, base[:, group], color="black", lw=1.8, label="base",
            drawstyle="steps-post",
        )  # fmt: skip
        _mark_phases(ax, settings, row)
        _logarithmic(ax)
        ax.set(title=_group(settings, group), xlim=(0, settings.steps))
        ax.set(ylabel="learning rate" if group % columns == 0 else "")
        if group >= count - columns:
            ax.set_xlabel("optimizer step")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(6, len(labels))
    )
    return figure


def _mark_phases(ax: Axes, settings: Settings, row: Configuration) -> None:
    start = settings.auto_lr_after if row.auto_lr else settings.steps
    ax.axvspan(0, min(start, settings.steps), color="#888888", alpha=0.12, lw=0)
    ax.plot([], [], color="#888888", alpha=0.3, lw=6, label="OneCycle phase")
    if start < settings.steps:
        label = f"auto-LR from step {start}"
        ax.axvline(start, color="#D55E00", lw=1.3, ls="--", label=label)


def _controller(
    folder: RunFolder, settings: Settings, row: Configuration | None
) -> Figure | None:
    syncs = list(folder.lines(row.name, 0, "sync")) if row else []
    syncs = [line for line in syncs if line.get("losses")]
    if row is None or not syncs:
        return None
    steps = np.array([line["step"] for line in syncs])
    losses = _floats([line["losses"] for line in syncs])
    weights, deltas = _acts(folder, row, syncs)
    with warnings.catch_warnings():
        # All replicas can be masked at once, and then there is no mean.
        warnings.simplefilter("ignore", RuntimeWarning)
        gaps = losses - np.nanmean(losses, axis=1, keepdims=True)
    divergence = 100 * _floats([line["divergence"] for line in syncs])
    figure = _figure(9.2, f"{_one_line(row.label)}, seed 0: {len(syncs)} syncs")
    axes = figure.subplots(4, 1, sharex=True)
    shades = _shades(losses.shape[1])
    names = [f"replica {r}" for r in range(losses.shape[1])]
    groups = [_group(settings, g) for g in range(deltas.shape[1])]
    panels = [
        (gaps, names, shades, "loss minus mean" + _unit(settings), "Replica losses"),
        (weights, names, shades, "weight", "Softmax weights (dotted: all equal)"),
        (deltas, groups, _CONTROL, "delta / base rate (%)", "Pull on the base rate"),
        (divergence, names, shades, "distance (%)", "Distance from the average"),
    ]  # fmt: skip
    acted = bool(np.isfinite(weights).any())
    for i, (ax, (table, labels, colors, unit, title)) in enumerate(
        zip(axes, panels, strict=True)
    ):
        mark = "o" if len(steps) <= 40 else ""
        for j, label in enumerate(labels):
            color = colors[j % len(colors)]
            ax.plot(
                steps, table[:, j], color=color, lw=1, marker=mark, ms=3, label=label
            )
        ax.set(title=title, ylabel=unit, xlim=(0, 1.01 * settings.steps))
        if i in (1, 2) and not acted:
            ax.set(yticks=[])
            ax.text(
                0.5, 0.5, _never_acted(settings, row), ha="center", va="center",
                transform=ax.transAxes,
            )  # fmt: skip
        elif i < 3:
            level = 1 / losses.shape[1] if i == 1 else 0
            ax.axhline(level, color="#666666", lw=1, ls=":")
        if i == 0 or (i == 2 and acted):
            _legend(ax)
    axes[-1].set(xlabel="optimizer step", ylim=(0, None))
    return figure


def _acts(
    folder: RunFolder, row: Configuration, syncs: list[dict[str, Any]]
) -> tuple[Array, Array]:
    """Return weights and relative deltas per sync; NaN without the controller."""
    # A delta was built from the rates of the step before the sync; a sync's own line
    # has the base rate as it moved.
    base = {line["step"]: line["base_lr"] for line in folder.lines(row.name, 0, "step")}
    none = [np.nan] * len(syncs[0]["losses"])
    weights = _floats([line.get("weights") or none for line in syncs])
    deltas = [
        _floats(line.get("delta") or [np.nan] * len(line["base_lr"]))
        / _positive(base.get(line["step"], line["base_lr"]))
        for line in syncs
    ]
    return weights, 100 * np.array(deltas)


def _never_acted(settings: Settings, row: Configuration) -> str:
    if not row.auto_lr:
        return "This configuration has no controller."
    return (
        f"The controller has not acted in this run:\nit may from step "
        f"{settings.auto_lr_after} on, at every {settings.sync_every}th step."
    )


def _base_lr(settings: Settings, curves: list[_Curve]) -> Figure:
    figure = _figure(4.8, f"Base learning rate: {_one_line(settings.title)}")
    ax = figure.subplots()
    # Rows with one schedule would cover each other, so they share a line.
    alike: list[list[_Curve]] = []
    for curve in curves:
        for group in alike:
            same = group[0].base.shape == curve.base.shape
            if same and np.allclose(group[0].base, curve.base, equal_nan=True, atol=0):
                group.append(curve)
                break
        else:
            alike.append([curve])
    for group in alike:
        label = "\n= ".join(_label(curve.row.label) for curve in group)
        line = _positive(group[0].base)
        ax.plot(np.arange(1, len(line) + 1), line, label=label, **group[0].look)
    ax.set(xlabel="optimizer step", ylabel="base learning rate, mean over groups")
    _logarithmic(ax)
    ax.set_xlim(0, settings.steps)
    _legend(ax, labelspacing=0.8)
    return figure


def _final_losses(folder: RunFolder, settings: Settings) -> Figure | None:
    rows = [(row, folder.results(row.name)) for row in settings.configurations]
    rows = [(row, results) for row, results in rows if results]
    if not rows:
        return None
    looks = _looks(settings.configurations)
    calm = _floats([x.train_loss for _, found in rows for x in found if not x.diverged])
    wild = _floats([x.train_loss for _, found in rows for x in found])
    low, high = _dot_range(calm if np.isfinite(calm).any() else wild)
    figure = _figure(
        0.43 * len(rows) + 1.6, f"Final losses: {_one_line(settings.title)}"
    )
    ax = figure.subplots()
    for y, (row, found) in enumerate(rows):
        losses, color = _floats([x.train_loss for x in found]), looks[row.name]["color"]
        inside = losses <= high
        fine = np.array([not x.diverged for x in found])
        ax.plot(losses[inside & fine], 0 * losses[inside & fine] + y, "o", color=color,
                ms=5, alpha=0.55, mec="none")  # fmt: skip
        bad = inside & ~fine
        ax.plot(losses[bad], 0 * losses[bad] + y, "x", color="#C00000", ms=7, mew=2)
        mean = losses.mean()
        if mean <= high:
            error = losses.std(ddof=1) / len(losses) ** 0.5 if len(losses) > 1 else 0
            ax.errorbar(
                mean, y, xerr=error, fmt="D", color=color, ms=5, capsize=4, lw=1.6
            )
        outside = _outside(losses[~inside], fine[~inside])
        ax.text(1.01, y, outside, va="center", transform=ax.get_yaxis_transform(),
                color="#333333" if fine.all() else "#C00000")  # fmt: skip
    ax.set_yticks(range(len(rows)), [_label(row.label, 34) for row, _ in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(low, high))
    ax.set_xlabel("final training loss" + _unit(settings))
    _caption(
        figure,
        "Dots: seeds. Diamond: their mean, with its standard error. × diverged. "
        "→ lies to the right of the plot.",
    )
    return figure


def _outside(losses: Array, fine: Array) -> str:
    texts = [
        f"→ {value:.3g}{'' if calm else ' ×'}" if np.isfinite(value) else "not finite ×"
        for value, calm in zip(losses, fine, strict=True)
    ]
    # Two are enough to see where a row is.
    more = f"\nand {len(texts) - 2} more" if len(texts) > 2 else ""
    return "\n".join(texts[:2]) + more


def _dot_range(losses: Array) -> tuple[float, float]:
    """Return an x-range without the far-off ones on the right (Tukey's outer fence)."""
    losses = losses[np.isfinite(losses)]
    if not losses.size:
        return 0.0, 1.0
    lower, upper = np.quantile(losses, [0.25, 0.75])
    near = losses[losses <= upper + 3 * (upper - lower)]
    pad = 0.08 * (near.max() - near.min()) or 0.1 * abs(near.max()) or 0.5
    return float(near.min() - pad), float(near.max() + pad)


# ------------------------------------------------------------------------ details


def _figure(height: float, title: str) -> Figure:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, 90), fontsize=11.5, fontweight="bold")
    return figure


def _caption(figure: Figure, text: str) -> None:
    figure.supxlabel(textwrap.fill(text, 120), fontsize=8.5, color="#444444")


def _legend(ax: Axes, **more: Any) -> None:
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    ax.legend(**place, **more)


def _label(text: str, width: int = 27) -> str:
    """Return a label that neither runs on nor means anything to matplotlib."""
    return "\n".join(textwrap.wrap(_one_line(text), width)) or " "


def _one_line(text: str) -> str:
    # A dollar opens a formula; a leading underscore hides a line from the legend.
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _group(settings: Settings, group: int) -> str:
    known = group < len(settings.groups)
    return _label(settings.groups[group] if known else f"group {group}")


def _unit(settings: Settings) -> str:
    """Return what a title says behind its first comma: the loss and its unit."""
    _, _, unit = settings.title.partition(", ")
    return f"\n{_label(unit, 34)}" if unit else ""


def _logarithmic(ax: Axes) -> None:
    ax.set_yscale("log")
    # The default's 6 x 10^-2 takes the width of three ordinary labels.
    ax.yaxis.set_major_formatter(LogFormatter())
    ax.yaxis.set_minor_formatter(LogFormatter())


def _positive(values: Any) -> Array:
    """Return what a logarithmic axis can show."""
    array = _floats(values)
    return np.where(array > 0, array, np.nan)


def _shades(count: int) -> list[Any]:
    """Return one colour per replica, from an even and colour-blind safe scale."""
    return [mpl.colormaps["viridis"](x) for x in np.linspace(0, 0.92, count)]


def _save(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".tmp")
    figure.savefig(beside, format="png")
    os.replace(beside, file)
    return file

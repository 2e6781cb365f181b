"""The four pictures of a federated run, drawn from its rounds alone.

    learning    accuracy and loss by round
    rates       alpha, the server's rate, and beta, the clients', by round
    selection   how often each client was selected, in order of that
    traffic     bytes down and up, cumulative

A loss that is not finite ends its curve, and a huge one leaves it at the top: a run that
diverges must not hide what came before.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...compare import axes
from ...compare.curves import Array, floats, positive
from .folder import Folder
from .settings import Settings
from .summary import Summary, summarise

_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
# Beyond this ratio of the largest to the smallest, a straight axis hides the small.
_WIDE = 5.0


def draw_all(folder: Folder) -> dict[str, Path]:
    """Draw what the folder has so far into its `plots`; call it again at any time.

    Args:
        folder: with at least one round.

    Returns:
        The picture's file by its name: `learning`, `rates`, `selection`, `traffic`.
    """
    settings, records = folder.plan().settings, folder.records()
    columns = {
        name: floats([getattr(record, name) for record in records])
        for name in ("loss", "accuracy", "worst_class", "alpha", "beta", "train_loss")
    }
    down, up = (
        np.cumsum(floats([getattr(record, name) for record in records]))
        for name in ("bytes_down", "bytes_up")
    )
    with mpl.rc_context(axes.STYLE), np.errstate(all="ignore"):
        figures = {
            "learning": _learning(settings, columns),
            "rates": _rates(settings, columns),
            "selection": _selection(settings, summarise(records, settings)),
            "traffic": _traffic(settings, down, up),
        }
        return {
            name: axes.save(figure, folder.path / "plots" / f"{name}.png")
            for name, figure in figures.items()
        }


def _name(settings: Settings) -> str:
    return f"{settings.task}, {settings.strategy}, {settings.selector}"


def _learning(settings: Settings, columns: dict[str, Array]) -> Figure:
    figure = axes.figure(6.4, f"Accuracy and loss: {_name(settings)}")
    above, below = figure.subplots(2, 1, sharex=True)
    _line(above, columns["accuracy"], _BLUE, "all test images")
    _line(above, columns["worst_class"], _ORANGE, "worst class")
    above.set(title="Accuracy of the global model", ylabel="percent", ylim=(-2, 102))
    losses = [columns["loss"], columns["train_loss"]]
    _line(below, losses[0], _BLUE, "test images")
    _line(below, losses[1], _GREEN, "clients' local steps")
    # Ten times the first loss is a divergence, however high it gets.
    low, high = _range(losses, 10 * float(losses[0][0]))
    if _WIDE * low < high:
        axes.logarithmic(below)
    below.set(title="Mean cross-entropy", ylabel="nats", xlabel="round", ylim=(low, high))
    for ax in (above, below):
        axes.legend(ax)
    _rounds(below, len(losses[0]))
    return figure


def _rates(settings: Settings, columns: dict[str, Array]) -> Figure:
    figure = axes.figure(5.6, f"Learning rates: {_name(settings)}")
    above, below = figure.subplots(2, 1, sharex=True)
    for ax, name, color, title in (
        (above, "alpha", _BLUE, "Server: alpha, a factor on the mean update"),
        (below, "beta", _ORANGE, "Clients: beta, the rate that the server sends"),
    ):
        rates = positive(columns[name])
        _line(ax, rates, color)
        low, high = _range([rates])
        if _WIDE * low < high:
            axes.logarithmic(ax)
        ax.set_ylim(low, high)
        ax.set(title=title, ylabel=name)
    below.set_xlabel("round")
    _rounds(below, len(columns["alpha"]))
    return figure


def _selection(settings: Settings, summary: Summary) -> Figure:
    figure = axes.figure(4.2, f"Rounds per client: {_name(settings)}")
    ax = figure.subplots()
    counts = sorted(summary.counts, reverse=True)
    mean = sum(counts) / len(counts)
    ax.bar(np.arange(1, len(counts) + 1), counts, width=1.0, color=_BLUE, alpha=0.75)
    ax.axhline(mean, color="#333333", lw=1.2, ls=(0, (5, 1.5)), label=f"mean, {mean:.3g}")
    never = counts.count(0)
    ax.set(
        title=f"Jain's index {summary.jain:.3f} (uniform draws: about "
        f"{summary.jain_uniform:.3f}); never selected: {never} of {len(counts)}",
        xlabel="clients, the most selected first",
        ylabel="times selected",
        xlim=(0.5, len(counts) + 0.5),
    )
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="x", visible=False)
    axes.legend(ax)
    return figure


def _traffic(settings: Settings, down: Array, up: Array) -> Figure:
    figure = axes.figure(4.2, f"Traffic: {_name(settings)}")
    ax = figure.subplots()
    largest = max(down[-1], up[-1])
    unit, size = next(
        (unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
        if largest >= size
    )  # fmt: skip
    _line(ax, down / size, _BLUE, "to clients")
    _line(ax, up / size, _ORANGE, "from clients")
    ax.set(title="Weights, updates and probes, since the first round", ylabel=unit)
    ax.set(xlabel="round", ylim=(0, 1.05 * largest / size))
    axes.legend(ax)
    _rounds(ax, len(down))
    return figure


def _line(ax: Axes, values: Array, color: str, label: str = "") -> None:
    # One round alone, or one between two that are not finite, has no line to show.
    mark = "o" if len(values) < 3 or not np.isfinite(values).all() else None
    at = np.arange(1, len(values) + 1)
    ax.plot(at, values, color=color, lw=1.7, marker=mark, ms=4, label=label)


def _range(lines: list[Array], most: float = np.inf) -> tuple[float, float]:
    """Return a range that shows positive numbers up to `most`; NaN is no limit."""
    values = np.concatenate(lines)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.1, 1.0
    low, high = values.min(), np.fmin(values.max(), most)
    # A constant stands in the middle; matplotlib would zoom into its rounding.
    return (0.95 * low, 1.05 * high) if high > 1.01 * low else (0.5 * low, 1.5 * low)


def _rounds(ax: Axes, count: int) -> None:
    ax.set_xlim(0 if count > 20 else 0.5, count + (0 if count > 20 else 0.5))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))

"""How the pictures look: figures, colours, labels, and the ranges that axes show.

A run that diverges is part of the result and must not spoil the picture, so a range is
that of the runs that learn, and what lies outside is for the picture to mark.

Only `matplotlib.figure.Figure` is used, never pyplot: no window, no list of figures.
"""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from ..core.files import write_whole
from .curves import Array
from .records import Configuration, Settings

STYLE: Any = {
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
# Inches; at 100 dots each a page shows the picture 900 pixels wide.
_WIDTH = 9.0
# Okabe and Ito's colours for the paper's rows, Tol's muted ones for controls: both sets
# stay apart for colour-blind eyes, and dashes keep the sets apart from each other.
_PAPER = ["#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#009E73", "#000000"]
CONTROL = ["#882255", "#44AA99", "#AA4499", "#999933", "#332288", "#CC6677"]
_DASHES = [(0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))]

Looks = dict[str, dict[str, Any]]


def looks(rows: Sequence[Configuration]) -> Looks:
    """Return each row's colour and line by its name, the same in all pictures."""
    found = {}
    paper = [row.name for row in rows if row.role == "paper"]
    control = [row.name for row in rows if row.role != "paper"]
    for i, name in enumerate(paper):
        found[name] = {"color": _PAPER[i % len(_PAPER)], "lw": 1.7, "ls": "-"}
    for i, name in enumerate(control):
        dashes = _DASHES[i % len(_DASHES)]
        found[name] = {"color": CONTROL[i % len(CONTROL)], "lw": 1.2, "ls": dashes}
    return found


def shades(count: int) -> list[Any]:
    """Return one colour per replica, from an even and colour-blind safe scale."""
    return [mpl.colormaps["viridis"](x) for x in np.linspace(0, 0.92, count)]


def figure(height: float, title: str) -> Figure:
    """Return an empty figure of so many inches under its title."""
    made = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(made)
    title = textwrap.fill(plain(title), 90)
    made.suptitle(title, fontsize=11.5, fontweight="bold")
    return made


def caption(below: Figure, text: str) -> None:
    """Say in small print how to read a figure."""
    below.supxlabel(textwrap.fill(text, 120), fontsize=8.5, color="#444444")


def legend(ax: Axes, **more: Any) -> None:
    """Put a legend beside the plot, where it covers no curve."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, **more)


def logarithmic(ax: Axes) -> None:
    """Make the vertical axis logarithmic, with short labels."""
    ax.set_yscale("log")
    # The default's 6 x 10^-2 takes the width of three ordinary labels.
    ax.yaxis.set_major_formatter(LogFormatter())
    ax.yaxis.set_minor_formatter(LogFormatter())


def plain(text: str) -> str:
    """Return a text that means nothing to matplotlib."""
    # A dollar opens a formula; a leading underscore hides a line from the legend.
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def label(text: str, width: int = 27) -> str:
    """Return a plain text in lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(plain(text), width)) or " "


def unit(settings: Settings) -> str:
    """Return what a title says behind its first comma: the loss and its unit."""
    _, _, text = settings.title.partition(", ")
    return f"\n{label(text, 34)}" if text else ""


def loss_range(losses: list[Array]) -> tuple[float, float]:
    """Return the y-range of the runs that learn, without their steep first fifth."""
    starts = [line[0] for line in losses if np.isfinite(line[0])]
    learning = [line for line in losses if starts and line[-1] <= np.median(starts)]
    tails = [line[len(line) // 5 :] for line in learning or losses]
    values = np.concatenate(tails)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    # Where nothing learns, the top quarter is what would squash the rest.
    low, high = values.min(), np.quantile(values, 1 if learning else 0.75)
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
    return max(low - pad, 0.8 * low if low > 0 else -np.inf), high + pad


def rate_range(lines: list[Array]) -> tuple[float, float]:
    """Return the y-range of rates, without the decades that OneCycle ends with."""
    values = np.concatenate([line[: 1 + 97 * len(line) // 100] for line in lines])
    values = values[np.isfinite(values)]
    return (0.5 * values.min(), 2 * values.max()) if values.size else (0.1, 1.0)


def dot_range(losses: Array) -> tuple[float, float]:
    """Return an x-range that leaves out what is far behind the better half."""
    losses = losses[np.isfinite(losses)]
    if not losses.size:
        return 0.0, 1.0
    best = losses.min()
    near = losses[losses <= best + 5 * (np.median(losses) - best)]
    pad = 0.08 * (near.max() - best) or 0.1 * abs(best) or 0.5
    return float(best - pad), float(near.max() + pad)


def save(drawn: Figure, file: Path) -> Path:
    """Write the picture whole, or leave what was there."""
    picture = BytesIO()
    drawn.savefig(picture, format="png")
    return write_whole(file, picture.getvalue())

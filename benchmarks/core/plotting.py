"""How the pictures look: one style sheet, and figures without a window.

Only `matplotlib.figure.Figure` is used, never pyplot, which keeps a list of figures.
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from .files import write_whole

STYLE = Path(__file__).with_name("hdet.mplstyle")
WIDTH = 9.0  # inches: a report shows the picture 900 pixels wide
NARROW = 6.5  # of the pictures in docs/, whose print has to be read on a phone, too


@contextmanager
def figure(
    file: Path, height: float, title: str, caption: str = "", width: float = WIDTH
) -> Iterator[Figure]:
    """Give an empty figure in the studies' style, and write it to `file` at the end.

    Args:
        file: a PNG, written whole.
        height: in inches.
        title: over the figure.
        caption: how to read it, in small print below.
        width: in inches.
    """
    with mpl.style.context(STYLE):
        drawn = Figure(figsize=(width, height))
        FigureCanvasAgg(drawn)
        drawn.suptitle(textwrap.fill(plain(title), round(10 * width)))
        if caption:
            text = textwrap.fill(caption, round(13 * width))
            drawn.supxlabel(text, fontsize=8.5, color="#444444")
        yield drawn
        picture = BytesIO()
        drawn.savefig(picture, format="png")
    write_whole(file, picture.getvalue())


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

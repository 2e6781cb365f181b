"""What the pictures of the concept pages share.

They are narrower than the studies' pictures, so that their letters can still be read where a
phone shows them 360 pixels wide.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.plotting import figure

WIDTH = 5.6  # inches


@contextmanager
def concept(folder: Path, name: str, height: float, title: str) -> Iterator[Figure]:
    """Give an empty figure, and write it to `concept-<name>.png` in `folder` at the end."""
    with figure(folder / f"concept-{name}.png", height, title, width=WIDTH) as drawn:
        yield drawn


def note(ax: Axes, x: float, text: str) -> None:
    """Write what begins at x, along the upper edge of the plot."""
    place = {"xytext": (3, -3), "textcoords": "offset points"}
    ax.annotate(text, (x, 1), xycoords=("data", "axes fraction"), va="top", fontsize=9, **place)

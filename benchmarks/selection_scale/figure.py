"""Draw what a selection costs over the number of clients, from its record."""

from pathlib import Path

import matplotlib as mpl

from ..compare import axes

# Okabe and Ito's and Tol's colours: apart for colour-blind eyes, with a marker each besides.
_COLORS = ["#000000", "#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#44AA99", "#882255"]
_MARKERS = "ov^sDP*"


def draw(record: dict, file: Path) -> Path:
    """Draw the median processor time of a call of every selector, and write the picture."""
    names = list(dict.fromkeys(run["selector"] for run in record["runs"]))
    with mpl.rc_context(axes.STYLE):
        figure = axes.figure(4.0, f"Time to choose {record['count']} clients")
        ax = figure.subplots()
        for name, color, marker in zip(names, _COLORS, _MARKERS, strict=True):
            runs = [run for run in record["runs"] if run["selector"] == name]
            ax.loglog(
                [run["clients"] for run in runs],
                [run["cpu_ms"] for run in runs],
                color=color,
                marker=marker,
                ms=5,
                lw=1.4,
                label=axes.plain(name),
            )
        ax.set(xlabel="clients", ylabel="milliseconds of the processor")
        axes.legend(ax)
        axes.caption(
            figure, f"Median of {record['calls']} calls on {record['threads']} thread."
        )
        return axes.save(figure, file)

"""What the demos share: runs shown while they go on, and results side by side in words."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..report import Run

# Where runs start, as multiples of the right rate.
FACTORS = {"30x too low": 1 / 30, "right": 1.0, "30x too high": 30.0}
_SECONDS = 0.15  # between two drawings
_PARTS = 5  # after each of which lines are printed where nothing can be redrawn


class DemoError(RuntimeError):
    """Something that a demo needs is missing; the message says what, and the remedy."""


@contextmanager
def shown(
    console: Console, title: str, runs: Sequence[Run], end: float, unit: str
) -> Iterator[Callable[[], None]]:
    """Show runs from x = 0 to `end`: a table that is redrawn, or lines now and then.

    Yields what to call when the runs have grown. No thread draws: a signal finds nothing half
    done.
    """
    began = drawn = time.monotonic()
    printed = 0

    def table() -> Table:
        names = (unit, *runs[0].curves)
        made = Table("run", *names, title=f"{title}, {time.monotonic() - began:.0f} s")
        for run in (one for one in runs if one.x):
            cells = [f"{values[-1]:.3g}" for values in run.curves.values()]
            style = "bold" if run.ours else ""
            made.add_row(run.name, f"{run.x[-1]:g}/{end:g}", *cells, style=style)
        return made

    def draw() -> None:
        nonlocal drawn, printed
        done = int(_PARTS * sum(run.x[-1] for run in runs if run.x) / len(runs) / end)
        if console.is_terminal and time.monotonic() - drawn > _SECONDS:
            live.refresh()
            drawn = time.monotonic()
        elif not console.is_terminal and done > printed:
            printed = done
            for run in (one for one in runs if one.x):
                seen = [f"{key} {values[-1]:.3g}" for key, values in run.curves.items()]
                line = f"{unit} {run.x[-1]:g} of {end:g}: {run.name}: {', '.join(seen)}"
                console.print(line, highlight=False, soft_wrap=True)

    live = Live(console=console, auto_refresh=False, get_renderable=table)
    with live if console.is_terminal else nullcontext():
        yield draw


def beside(loss: float, best: float) -> str:
    """Return how far a loss is from the best of the baselines, in percent."""
    return f"{100 * (loss / best - 1):+.1f} %" if math.isfinite(loss) else "diverged"


def summary(what: str, runs: Sequence[Run]) -> str:
    """Return the last cells of all runs as one sentence, the library's methods first."""
    said = []
    for method in dict.fromkeys(run.method for run in sorted(runs, key=lambda r: not r.ours)):
        cells = [f"{run.cells[-1]} ({run.start})" for run in runs if run.method == method]
        said.append(f"{method} {', '.join(cells)}")
    return f"{what}: {'; '.join(said)}."

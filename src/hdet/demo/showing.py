"""What the demos share: runs shown while they go on, and results side by side in words."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..report import Run

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 24  # of the small curves, in characters
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
    small = console.encoding.lower().startswith("utf")

    def table() -> Table:
        seconds = time.monotonic() - began
        made = Table(title=f"{title} · {seconds:.0f} s", title_justify="left")
        made.add_column("run")
        for name in (unit, *runs[-1].curves):
            made.add_column(name, justify="right")
        made.add_column("")
        for run in (one for one in runs if one.x):
            cells = [f"{values[-1]:.3g}" for values in run.curves.values()]
            curve = _small(run, runs) if small else ""
            style = "bold" if run.ours else ""
            made.add_row(run.name, f"{run.x[-1]:g}/{end:g}", *cells, curve, style=style)
        return made

    def draw() -> None:
        nonlocal drawn, printed
        done = int(_PARTS * min(run.x[-1] if run.x else 0 for run in runs) / end)
        if console.is_terminal and time.monotonic() - drawn > _SECONDS:
            live.refresh()
            drawn = time.monotonic()
        elif not console.is_terminal and done > printed:
            printed = done
            for run in runs:
                seen = [f"{key} {values[-1]:.3g}" for key, values in run.curves.items()]
                line = f"{unit} {run.x[-1]:g} of {end:g}: {run.name}: {', '.join(seen)}"
                console.print(line, highlight=False, soft_wrap=True)

    live = Live(console=console, auto_refresh=False, get_renderable=table)
    with live if console.is_terminal else nullcontext():
        yield draw


def _small(run: Run, runs: Sequence[Run]) -> str:
    """Return the curve of the last panel as characters, to the scale of all runs."""
    title = list(run.curves)[-1]
    every = [v for one in runs for v in one.curves.get(title, []) if math.isfinite(v)]
    low, high = min(every, default=0.0), max(every, default=1.0)
    scale = (len(_BLOCKS) - 1) / ((high - low) or 1.0)
    values = run.curves[title][:: math.ceil(len(run.x) / _WIDTH)]
    return "".join(_BLOCKS[int((v - low) * scale)] if math.isfinite(v) else " " for v in values)


def beside(loss: float, best: float) -> str:
    """Return how a loss stands to the best plain run's, in percent: `3.1 % above`."""
    if not math.isfinite(loss):
        return "diverged"
    if loss == best:
        return "the best plain run"
    return f"{abs(100 * (loss / best - 1)):.1f} % {'below' if loss < best else 'above'}"


def summary(what: str, runs: Sequence[Run]) -> str:
    """Return the last cells of all runs as one sentence, the library's methods first."""
    said = []
    for method in dict.fromkeys(run.method for run in sorted(runs, key=lambda r: not r.ours)):
        cells = [f"{run.cells[-1]} ({run.start})" for run in runs if run.method == method]
        said.append(f"{method} {', '.join(cells)}")
    return f"{what}: {'; '.join(said)}."

"""What is made of a folder of the benchmark for people: tables, a page, and its numbers.

The page holds its pictures and loads nothing, so it can be sent on alone. It names no path
of the machine it was made on.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..core.files import write_json
from ..core.pages import write_page
from . import grid, selections
from .findings import Findings, content, findings
from .page import TITLE, introduction, sections
from .units import Folder, Plan
from .words import mean, ratio


def write_report(folder: Folder) -> Path:
    """Write plots, `summary.json` and `report.html`; call it again at any time.

    Returns:
        The page.

    Raises:
        ValueError: if this is not a run folder, or nothing in it can be compared yet.
    """
    found = findings(folder)
    if not (found.rates or found.selection or found.mu):
        raise ValueError(
            f"{folder.path} has no whole grid and no pair of selectors in it yet: go on with "
            f"it by `python -m benchmarks federated --resume`."
        )
    # Matplotlib is slow to import, and the hours of a run need none of it.
    from .plots import draw_all

    plots, again = draw_all(folder, found), command(folder.plan())
    write_json(folder.path / "summary.json", content(found) | {"command": again})
    return write_page(
        folder.path / "report.html",
        "benchmark.html.j2",
        plots,
        {},
        title=TITLE,
        introduction=introduction(found),
        sections=sections(found),
        missing=found.missing,
        versions=folder.environment(),
        command=again,
    )


def command(plan: Plan) -> str:
    """Return the command that makes such a folder again."""
    words = ["hdet", "bench", "federated", "--experiments", ",".join(plan.experiments)]
    words += ["--seeds", str(plan.rate_seeds), "--selection-seeds", str(plan.selection_seeds)]
    return shlex.join([*words, "--rounds", str(plan.rounds)])


def tables(found: Findings) -> Iterator[Table]:
    """Yield the tables for a terminal of 80 columns."""
    for task in dict.fromkeys(row.task for row in found.rates):
        shown = _table(f"{task}: starts", "mean", "gain", "worst", "rounds", "div")
        for row in (row for row in found.rates if row.task == task):
            shown.add_row(
                # A plain string would be read as markup.
                Text(row.label),
                mean(row.mean),
                f"{row.gain.mean:+.2f}",
                f"{row.worst.accuracy:.2f}",
                ratio(row.speed.reached),
                f"{row.diverged}",
                style="bold" if row.strategy == grid.OURS else "",
            )
        yield shown
    for task in dict.fromkeys(row.task for row in found.selection):
        shown = _table(f"{task}: selection", "last", "late dev.", "worst class", "div")
        for row in (row for row in found.selection if row.task == task):
            shown.add_row(
                Text(row.label),
                *(mean(row.means[name]) for name in selections.DECIDING),
                f"{row.diverged}",
                style="bold" if row.selector == selections.OURS else "",
            )
        yield shown


def _table(title: str, *columns: str) -> Table:
    shown = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left"
    )
    shown.add_column("", min_width=20, overflow="fold")
    for name in columns:
        shown.add_column(name, justify="right", no_wrap=True)
    return shown

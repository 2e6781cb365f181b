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
from .findings import Findings, content, findings
from .page import TITLE, introduction, sections
from .units import BUDGETS, OURS, STARTS, Folder, Plan
from .words import loss, percent, power


def write_report(folder: Folder) -> Path:
    """Write plots, `summary.json` and `report.html`; call it again at any time.

    Returns:
        The page.

    Raises:
        ValueError: if this is not a run folder, or nothing in it can be compared yet.
    """
    found = findings(folder)
    if not (found.rows or found.prototypes or found.crossover):
        raise ValueError(
            f"{folder.path} has no method with all of its starts yet: go on with it by `hdet "
            f"bench bilevel --resume`."
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
    words = ["hdet", "bench", "bilevel", "--experiments", ",".join(plan.experiments)]
    if plan.tasks != list(BUDGETS):
        words += ["--tasks", ",".join(plan.tasks)]
    return shlex.join([*words, "--seeds", str(plan.seeds), "--scale", f"{plan.scale:g}"])


def tables(found: Findings) -> Iterator[Table]:
    """Yield the tables for a terminal of 80 columns."""
    for task in found.tasks:
        mine = [row for row in found.rows if row.task == task]
        if not mine:
            continue
        shown = Table(
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            title=f"{task}: loss by eps0",
            title_justify="left",
        )
        shown.add_column("", min_width=26, overflow="fold")
        for name in (*map(power, STARTS), "spread, %"):
            shown.add_column(name, justify="right", no_wrap=True)
        for row in mine:
            shown.add_row(
                # A plain string would be read as markup.
                Text(row.label),
                *(loss(cell.loss).partition(" ±")[0] for cell in row.cells),
                percent(row.spread).removesuffix(" %").partition(" ±")[0],
                style="bold" if row.method == OURS else "",
            )
        yield shown

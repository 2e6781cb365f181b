"""What a run folder shows people: the numbers as tables, the pictures, and how to do it again.

`report.html` holds its pictures and loads nothing, so that it can be sent on alone. It is the
page of `hdet.report`, with curves that can be hovered over where there are some. It has no
verdicts: what the numbers of a record mean is written by people, on the pages in docs/.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hdet.report import rendering

from .files import write_whole


def write_report(
    folder: Path,
    title: str,
    command: str,
    tables: Mapping[str, pd.DataFrame],
    pictures: Mapping[str, Path],
    environment: Mapping[str, Any],
    missing: int = 0,
    introduction: str = "",
    figure: Mapping[str, Any] | None = None,
) -> Path:
    """Write `report.html` whole, or leave what was there.

    Args:
        folder: the run's.
        title: of the page.
        command: that makes such a run again, without paths of this machine.
        tables: of texts, by their titles.
        pictures: PNG files, by what they show in words.
        environment: versions and machine.
        missing: runs that have no result yet.
        introduction: what was measured, and how to read the tables.
        figure: curves, as `hdet.report.figure` has them.

    Returns:
        The page.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).get_template("report.html.j2")
    about = {"command": command, "introduction": introduction, "missing": missing}
    drawn = {text: base64.b64encode(p.read_bytes()).decode() for text, p in pictures.items()}
    words = template.render(about, tables=tables, pictures=drawn, environment=environment)
    page = rendering.page(title, figure or rendering.EMPTY, Markup(words), "")
    return write_whole(folder / "report.html", page)


def print_table(rows: pd.DataFrame, caption: str = "") -> None:
    """Show a table of texts on the terminal, for 80 columns."""
    shown = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=caption,
        caption_justify="left",
    )
    for i, name in enumerate(rows.columns):
        if i:
            shown.add_column(str(name), justify="right", no_wrap=True)
        else:
            shown.add_column(str(name), min_width=20, overflow="fold")
    for row in rows.itertuples(index=False):
        # A plain string would be read as markup.
        shown.add_row(*(Text(str(cell)) for cell in row))
    Console().print(shown)

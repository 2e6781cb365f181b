"""One page in one file: the picture first, then a sentence for each run, and the table."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template

from .picture import Panel, Run, colour_of, picture


@dataclass(frozen=True)
class Page:
    """What a page shows: runs with their results, drawn in panels over one axis, and words."""

    title: str
    runs: Sequence[Run]
    panels: Sequence[Panel]
    x_title: str
    header: Sequence[str]
    closing: str
    setting: str

    def write(self, folder: Path) -> Path:
        """Write `report.html` into a folder that is there, and return its path."""
        packages = ", ".join(f"{name} {version(name)}" for name in ("hdet", "torch"))
        template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
        html = Template(template).substitute(
            title=escape(self.title),
            legend=_legend(self.runs),
            picture=picture(self.runs, self.panels, self.x_title),
            closing=escape(self.closing),
            sentences="".join(f"<li>{escape(run.sentence)}</li>" for run in self.runs),
            header="".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.header),
            rows="\n".join(map(_row, self.runs)),
            setting=escape(self.setting),
            versions=f"{packages}, Python {platform.python_version()}, {platform.machine()}.",
        )
        report = folder / "report.html"
        report.write_text(html, encoding="utf-8")
        return report


def _row(run: Run) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in run.cells)
    mark = ' class="ours"' if run.ours else ""
    return f'<tr{mark}><th scope="row">{escape(run.name)}</th>{cells}</tr>'


def _legend(runs: Sequence[Run]) -> str:
    strokes = [(f'"{colour}" stroke-width="5"', s) for s, colour in colour_of(runs).items()]
    for method, ours in dict.fromkeys((run.method, run.ours) for run in runs):
        dash = "" if ours else ' stroke-dasharray="2 4"'
        strokes.append((f'"currentColor" stroke-width="2"{dash}', method))
    return "".join(
        f'<li><svg width="26" height="8" aria-hidden="true"><line x2="26" y1="4" y2="4" '
        f"stroke={stroke}/></svg>{escape(words)}</li>"
        for stroke, words in strokes
    )

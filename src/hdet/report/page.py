"""The page of a demo: the picture first, then a sentence for each run, and the table."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from . import rendering
from .picture import Panel, Run, picture


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
        html = rendering.page(
            self.title,
            picture(self.runs, self.panels, self.x_title),
            rendering.words("demo.html", page=self),
            f"{packages}, Python {platform.python_version()}, {platform.machine()}.",
        )
        report = folder / "report.html"
        report.write_text(html, encoding="utf-8")
        return report

"""The picture of a demo: panels over one axis, with a line for each run.

Solid and dotted lines tell the methods, colours the starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .figure import COLOURS


@dataclass
class Run:
    """One run: what trains it and where it started, its curves by panel, and how it ended.

    Curves grow while a run goes on; `cells` are its row in the table, after its name. `ours`
    marks this library's methods: solid lines, bold rows.
    """

    method: str
    start: str
    ours: bool
    x: list[float] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    cells: list[str] = field(default_factory=list)
    sentence: str = ""

    @property
    def name(self) -> str:
        """Method and start."""
        return f"{self.method}, {self.start}"

    def add(self, x: float, values: dict[str, float]) -> None:
        """Append the values at `x`, by the panel's title."""
        self.x.append(x)
        for title, value in values.items():
            self.curves.setdefault(title, []).append(value)


@dataclass(frozen=True)
class Panel:
    """One panel: its title, its kind of axis, and the ends of that (None: of the values)."""

    title: str
    log: bool = False
    low: float | None = None
    high: float | None = None


def picture(runs: Sequence[Run], panels: Sequence[Panel], x_title: str) -> dict[str, Any]:
    """Return the figure of the runs, as `figure.figure` makes one of records."""
    starts = list(dict.fromkeys(run.start for run in runs))
    # The library's own runs come last, and so lie above the others.
    return {
        "x": x_title,
        "panels": [vars(panel) for panel in panels],
        "runs": [
            {
                "name": run.name,
                "colour": COLOURS[starts.index(run.start) % len(COLOURS)],
                "dash": "solid" if run.ours else "dot",
                "x": run.x,
                "curves": [
                    {
                        "panel": number,
                        "kind": "base",
                        "y": [y if math.isfinite(y) else None for y in run.curves[panel.title]],
                        "replicas": [],
                    }
                    for number, panel in enumerate(panels)
                ],
            }
            for run in sorted(runs, key=lambda run: run.ours)
        ],
    }

"""The picture of a report: panels over one axis, with a line for each run, by plotly.

Solid and dotted lines tell the methods, colours the starts. The page's style sheet colours text
and grid, which follow its light and dark mode; the lines stand out on both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

# Blue, green, vermilion, grey: colour-blind readers can tell them apart.
COLOURS = ("#3d8fe0", "#1aa67c", "#e2622b", "#8a93a0")


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


def colour_of(runs: Sequence[Run]) -> dict[str, str]:
    """Return the colour of each start, in the order of the runs."""
    return dict(zip(dict.fromkeys(run.start for run in runs), COLOURS, strict=False))


def picture(runs: Sequence[Run], panels: Sequence[Panel], x_title: str) -> str:
    """Return the picture as HTML, with all of plotly's script in it."""
    import plotly.graph_objects as go
    from plotly.io import to_html
    from plotly.subplots import make_subplots

    titles = [panel.title for panel in panels]
    figure = make_subplots(
        len(panels), 1, shared_xaxes=True, vertical_spacing=0.1, subplot_titles=titles
    )
    colours = colour_of(runs)
    for row, panel in enumerate(panels, 1):
        # The library's own runs come last, and so lie above the others.
        for run in sorted(runs, key=lambda run: run.ours):
            dash, width = ("solid", 2.4) if run.ours else ("dot", 1.8)
            line = {"color": colours[run.start], "dash": dash, "width": width}
            y = run.curves[panel.title]
            figure.add_trace(go.Scatter(x=run.x, y=y, name=run.name, line=line), row, 1)
        axis = {"type": "log", "dtick": 1, "exponentformat": "power"} if panel.log else {}
        ends = (
            end and math.log10(end) if panel.log else end for end in (panel.low, panel.high)
        )
        figure.update_yaxes(**axis, range=list(ends), row=row, col=1)
    figure.update_xaxes(title={"text": x_title, "standoff": 8}, row=len(panels), col=1)
    figure.update_annotations(x=0, xanchor="left", font_size=14)
    hover = "%{y:.3g} at %{x}<extra>%{fullData.name}</extra>"
    figure.update_traces(mode="lines", hovertemplate=hover)
    figure.update_layout(
        template="none",
        showlegend=False,
        dragmode=False,
        height=300 * len(panels),
        margin={"l": 52, "r": 14, "t": 30, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    config = {"responsive": True, "displayModeBar": False}
    return to_html(figure, config, full_html=False, include_plotlyjs=True, div_id="picture")

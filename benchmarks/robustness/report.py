"""What is made of a run of the robustness benchmark: a table, a page, and its numbers.

The page holds its pictures and loads nothing, so it can be sent on alone. It names no
path of the machine it was made on. `summary.json` has all that the documentation needs.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..core.files import write_json
from ..core.pages import write_page
from .execution import unfinished
from .methods import OURS, START_FREE
from .regret import TOLERANCE, Standing, references, rows, standings
from .units import STARTS, Folder, Settings, start_label
from .words import cell_text, percent, verdicts


def table(found: Sequence[Standing]) -> Table:
    """Return the methods over all problems, for a terminal of 80 columns."""
    shown = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption="Regret of the held-out loss against the best rate of a sweep, over problems "
        f"and starts. <={TOLERANCE:g} %: share of them. div: runs that diverged; a mean with "
        "one in it is diverged.",
        caption_justify="left",
    )
    shown.add_column("Method", min_width=20, overflow="fold")
    for name in ("mean", "median", "worst", f"<={TOLERANCE:g} %", "div"):
        shown.add_column(name, justify="right", no_wrap=True)
    for one in found:
        shown.add_row(
            # A plain string would be read as markup.
            Text(one.label),
            *(percent(value) for value in (one.mean, one.median, one.worst)),
            f"{one.within:.0%}",
            f"{one.diverged}/{one.runs}",
            style="bold" if one.method == OURS else "",
        )
    return shown


def write_report(folder: Folder) -> Path:
    """Write plots, `summary.json` and `report.html`; call it again at any time.

    Returns:
        The page.

    Raises:
        ValueError: if this is not a run folder, or no sweep in it is complete.
    """
    settings, every, against = folder.settings(), rows(folder), references(folder)
    if not every:
        raise ValueError(
            f"{folder.path} has no start of any method in it yet: go on with it by "
            f"`python -m benchmarks robustness --resume`."
        )
    # Matplotlib is slow to import, and the hours of a run need none of it.
    from .figures import draw_all

    plots, found, lacking = draw_all(folder), standings(every), len(unfinished(folder))
    said = verdicts(found)
    content = {
        "references": [asdict(one) for one in against],
        "rows": [asdict(row) for row in every],
        "standings": [asdict(one) for one in found],
        "verdicts": said,
        "start_free": sorted(START_FREE & set(settings.methods)),
        "missing": lacking,
        "command": command(settings),
    }
    write_json(folder.path / "summary.json", content)
    return write_page(
        folder.path / "report.html",
        "robustness.html.j2",
        plots,
        {"percent": percent, "cell": cell_text, "start": start_label},
        settings=settings,
        references=against,
        rows=every,
        standings=found,
        verdicts=said,
        missing=lacking,
        versions=folder.environment(),
        command=command(settings),
        ours=OURS,
        start_free=START_FREE,
        tolerance=TOLERANCE,
        inf=math.inf,
    )


def command(settings: Settings) -> str:
    """Return the command that makes such a folder again."""
    words = ["python", "-m", "benchmarks", "robustness"]
    words += ["--problems", ",".join(problem.name for problem in settings.problems)]
    words += ["--methods", ",".join(settings.methods), "--seeds", str(settings.seeds)]
    if settings.starts != list(STARTS):
        words += ["--starts", ",".join(map(start_label, settings.starts))]
    return shlex.join(words)

"""What is made of a federated run for people: a table for the terminal, and one page.

The page holds its pictures and loads nothing, so it can be sent on alone. It names no path of
the machine it was made on.
"""

import math
import shlex
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ...core.commands import option
from ...core.files import write_json
from ...core.pages import write_page
from .data import CLASSES
from .folder import Folder, Plan
from .options import FIELDS
from .summary import LAST, Summary, in_bytes, summarise


def write_report(folder: Folder) -> Path:
    """Write plots, `summary.json` and `report.html`; call it again at any time.

    Returns:
        The page.

    Raises:
        ValueError: if this is not a run folder, or no round is over.
    """
    plan, records = folder.plan(), folder.records()
    if not records:
        raise ValueError(
            f"{folder.path} has no round in it yet: run it by `hdet federate --resume`."
        )
    # Matplotlib is slow to import, and the run needs none of it.
    from .plots import draw_all

    plots, found = draw_all(folder), summarise(records, plan.settings)
    seconds, again = folder.seconds(), command(plan)
    write_json(
        folder.path / "summary.json", {**asdict(found), "seconds": seconds, "command": again}
    )
    return write_page(
        folder.path / "report.html",
        "federate.html.j2",
        plots,
        {},
        plan=plan,
        rows=rows(found, seconds),
        settings={option(name): getattr(plan.settings, field) for name, field in SHOWN.items()},
        summary=found,
        seconds=seconds,
        guessing=math.log(CLASSES),
        versions=folder.environment(),
        command=again,
    )


SHOWN = {name: field for name, field in FIELDS.items() if name != "data"}


def rows(found: Summary, seconds: float | None) -> list[tuple[str, str]]:
    """Return the final numbers in words and figures."""
    last = min(LAST, found.rounds)
    return [
        ("test accuracy, last round", f"{found.accuracy:.2f} %"),
        ("test accuracy, peak", f"{found.peak_accuracy:.2f} % in round {found.peak_round}"),
        (f"test accuracy, mean of last {last}", f"{found.last_accuracy:.2f} %"),
        ("worst class, last round", f"{found.worst_class:.2f} %"),
        ("test loss, last round", _nats(found.loss)),
        ("alpha, beta, last round", f"{found.alpha:.4g}, {found.beta:.4g}"),
        ("rounds", f"{found.rounds}"),
        ("bytes to clients", in_bytes(found.bytes_down)),
        ("bytes from clients", in_bytes(found.bytes_up)),
        ("replies that did not come", f"{found.silent}"),
        ("clients never selected", f"{found.counts.count(0)} of {len(found.counts)}"),
        (
            "Jain's index of selection",
            f"{found.jain:.3f} (uniform draws: {found.jain_uniform:.3f})",
        ),
        ("wall time", "not finished" if seconds is None else f"{seconds:.1f} s"),
    ]


def _nats(loss: float) -> str:
    return f"{loss:.4g} nats" if math.isfinite(loss) else "not finite"


def table(found: Summary, seconds: float | None) -> Table:
    """Return the final numbers for a terminal of 80 columns."""
    shown = Table(box=SIMPLE_HEAD, show_header=False, show_edge=False, pad_edge=False)
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    for name, value in rows(found, seconds):
        shown.add_row(name, value)
    return shown


def command(plan: Plan) -> str:
    """Return the command that makes such a folder again, without the user's path."""
    words = ["hdet", "federate"]
    for name, field in SHOWN.items():
        words += [option(name), str(getattr(plan.settings, field))]
    words += ["--engine", plan.engine]
    return shlex.join(words) + (" --data <path>" if plan.settings.data else "")

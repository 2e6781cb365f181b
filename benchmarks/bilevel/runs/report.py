"""What is made of a bilevel run for people: a table for the terminal, and one page.

The page holds its pictures and loads nothing, so it can be sent on alone. It names no path of
the machine it was made on.
"""

import shlex
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ...core.commands import option
from ...core.files import write_json
from ...core.pages import write_page
from .folder import Folder, Outcome
from .methods import METHODS
from .settings import OPTIONS, Settings, load, remedy_of

# What `Task.judged` returns, in words, with the digits and the unit.
_JUDGED = {
    "loss": ("upper loss, exact", ".5g", ""),
    "test_loss": ("test loss", ".4g", ""),
    "test_accuracy": ("test accuracy", ".2f", " %"),
    "psnr": ("PSNR", ".2f", " dB"),
    "test_psnr": ("test PSNR", ".2f", " dB"),
}


def write_report(folder: Folder) -> Path:
    """Write plots, `summary.json` and `report.html`; call it again at any time.

    Returns:
        The page.

    Raises:
        ValueError: if this is not a run folder, or the run is not complete.
    """
    settings, outcome = folder.settings(), _outcome(folder)
    # Matplotlib is slow to import, and the run needs none of it.
    from .plots import draw_all

    plots, again, task = draw_all(folder, outcome), command(settings), load(settings)
    steps = folder.steps()
    content = {
        "settings": asdict(settings),
        **asdict(outcome),
        "outer_steps": len(steps),
        "command": again,
    }
    write_json(folder.path / "summary.json", content)
    reason, remedy = remedy_of(outcome.message)
    return write_page(
        folder.path / "report.html",
        "bilevel.html.j2",
        plots,
        {},
        settings=settings,
        options={option(name): getattr(settings, name) for name in OPTIONS},
        title=task.title,
        method=METHODS[settings.method],
        rows=rows(folder),
        outcome=outcome,
        reason=reason,
        remedy=remedy,
        versions=folder.environment(),
        command=again,
    )


def _outcome(folder: Folder) -> Outcome:
    outcome = folder.outcome()
    if outcome is None:
        raise ValueError(
            f"{folder.path} is not complete: go on with it by `hdet bilevel --resume`."
        )
    return outcome


def rows(folder: Folder) -> list[tuple[str, str]]:
    """Return a complete run's final numbers in words and figures."""
    settings, outcome = folder.settings(), _outcome(folder)
    counts, before, after = outcome.counts, outcome.before, outcome.after
    cost = {
        "gradients": counts.gradients,
        "Hessian products": counts.hessian_products,
        "mixed products": counts.mixed_products,
    }
    return [
        ("task", f"{settings.task}: {load(settings).title}"),
        ("method", METHODS[settings.method]),
        *[
            (words, f"{before[name]:{digits}}{unit} -> {after[name]:{digits}}{unit}")
            for name, (words, digits, unit) in _JUDGED.items()
            if name in after
        ],
        *[
            (words, f"{before[name]:.2f} dB")
            for name, words in (
                ("noisy_psnr", "noisy PSNR"),
                ("noisy_test_psnr", "noisy test PSNR"),
            )
            if name in before
        ],
        ("outer steps", f"{len(folder.steps())}"),
        ("searches that failed", f"{outcome.failed_searches}"),
        ("cost", f"{counts.cost}"),
        *[(f"of which {name}", f"{count}") for name, count in cost.items()],
        ("wall time", f"{outcome.seconds:.1f} s"),
    ]


def table(folder: Folder) -> Table:
    """Return the final numbers for a terminal of 80 columns."""
    shown = Table(box=SIMPLE_HEAD, show_header=False, show_edge=False, pad_edge=False)
    shown.add_column(no_wrap=True)
    shown.add_column()
    ending = zip(
        ("stopped because", "remedy"), remedy_of(_outcome(folder).message), strict=True
    )
    for name, value in (*rows(folder), *ending):
        shown.add_row(name, value)
    return shown


def command(settings: Settings) -> str:
    """Return the command that makes such a folder again."""
    words = ["hdet", "bilevel", settings.task]
    for name in OPTIONS:
        value = getattr(settings, name)
        if isinstance(value, bool):
            words.append(option(name if value else f"no_{name}"))
        elif value is not None:
            words += [option(name), str(value)]
    return shlex.join(words)

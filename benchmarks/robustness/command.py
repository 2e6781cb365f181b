"""The command `python -m benchmarks robustness`."""

from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..core.commands import MOST, errors_said, nothing_else_given, ready
from .execution import run_all
from .methods import LABELS
from .problems import PROBLEMS, load
from .regret import rows, standings
from .report import table, write_report
from .units import STARTS, Folder, Settings, plan, start_label

_COMMAND = "python -m benchmarks robustness"


def robustness(
    context: typer.Context,
    problems: Annotated[
        str, typer.Option(help=f"Names, separated by commas: {', '.join(PROBLEMS)}.")
    ] = "",
    methods: Annotated[
        str, typer.Option(help=f"Names, separated by commas: {', '.join(LABELS)}.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, max=MOST, help="Runs from each start.")] = 3,
    starts: Annotated[
        str, typer.Option(help="Initial peak rates, as multiples of the best.")
    ] = ",".join(map(start_label, STARTS)),
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; default runs/robustness-...")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Runs at once; default one per core.")
    ] = None,
) -> None:
    """Start every method from rates far too low to far too high, and see how it ends.

    A sweep of plain DDP finds each problem's best peak rate first; the starts are
    multiples of it. The folder that is printed has every number, plots and report.html.
    """
    path = resume or out or Path("runs") / f"robustness-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Folder(path)
    with errors_said(_COMMAND, path):
        if resume is not None:
            nothing_else_given(context, {"resume", "processes"})
            settings = folder.settings()
        else:
            settings = plan(_names(problems), _names(methods), _numbers(starts), seeds)
        for problem in settings.problems:
            # Missing data are an error of the user's: say so before anything is written.
            load(problem)
        with ready(folder, settings, resume is not None):
            _introduce(path, settings)
            run_all(folder, processes)
            report = write_report(folder)
            Console().print(table(standings(rows(folder))))
            print(f"Report: {report}")


def _introduce(path: Path, settings: Settings) -> None:
    print(
        f"A sweep of plain DDP, then problems x methods x starts x seeds: "
        f"{len(settings.problems)} x {len(settings.methods)} x {len(settings.starts)} x "
        f"{settings.seeds}.",
        flush=True,
    )
    print(f"Folder: {path}", flush=True)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(Fraction(part)) for part in _names(text)]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"--starts {text!r} must be numbers: try 1/10,1,10.") from None

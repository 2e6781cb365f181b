"""The commands behind `hdet bench`; `hdet.commands` adds them to the command line."""

import shlex
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import MissingDataError
from .robustness.execution import run_all
from .robustness.methods import LABELS
from .robustness.problems import PROBLEMS, load
from .robustness.regret import rows, standings
from .robustness.report import table, write_report
from .robustness.units import STARTS, Folder, Settings, plan, start_label
from .workers import WorkerError

app = typer.Typer(help="Compare this library with others, and keep the numbers.")
_console = Console(stderr=True)


@app.callback()
def _common() -> None:
    pass


@app.command()
def robustness(
    context: typer.Context,
    problems: Annotated[
        str, typer.Option(help=f"Names, separated by commas: {', '.join(PROBLEMS)}.")
    ] = "",
    methods: Annotated[
        str, typer.Option(help=f"Names, separated by commas: {', '.join(LABELS)}.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs from each start.")] = 3,
    starts: Annotated[
        str, typer.Option(help="Initial peak rates, as multiples of the best.")
    ] = ",".join(map(start_label, STARTS)),
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; default runs/robustness-...")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; default one per core.")
    ] = None,
) -> None:
    """Start every method from rates far too low to far too high, and see how it ends.

    A sweep of plain DDP finds each problem's best peak rate first; the starts are
    multiples of it. The folder that is printed has every number, plots and report.html.
    """
    path = resume or out or Path("runs") / f"robustness-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Folder(path)
    try:
        if resume is not None:
            _nothing_else_given(context)
            settings = folder.settings()
        else:
            settings = plan(_names(problems), _names(methods), _numbers(starts), seeds)
            _nothing_there(path)
        for problem in settings.problems:
            # Missing data are an error of the user's: say so before anything is written.
            load(problem)
        if resume is None:
            folder.create(settings)
        _introduce(path, settings)
        run_all(folder, processes)
        report = write_report(folder)
    except (ValueError, MissingDataError) as error:
        _say(f"[red]hdet bench robustness:[/red] {escape(str(error))}")
        raise typer.Exit(2) from None
    except WorkerError as error:
        _say(f"\n[red]{escape(str(error))}[/red]")
        _say_how_to_go_on(path, "Once the cause is gone, go on with")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say("\nStopped.")
        _say_how_to_go_on(path, "Go on with")
        raise typer.Exit(130) from None
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


def _say(markup: str) -> None:
    # A path that is broken at the window's edge cannot be copied.
    _console.print(markup, highlight=False, soft_wrap=True)


def _say_how_to_go_on(path: Path, words: str) -> None:
    if (path / "config.json").exists():
        _say(f"{words}: hdet bench robustness --resume {escape(shlex.quote(str(path)))}")


def _nothing_there(path: Path) -> None:
    """Raise if `path` holds anything: a run must not mix with other files."""
    if (path / "config.json").exists():
        raise ValueError(
            f"--out {path} holds a run already: go on with it by "
            f"`hdet bench robustness --resume {path}`, or name another folder."
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--out {path} is not an empty folder: name one that is not there.")


def _nothing_else_given(context: typer.Context) -> None:
    """Raise if an option was given that the folder has: it says what the run is."""
    given = [
        f"--{name}"
        for name in context.params
        if name not in {"resume", "processes"}
        and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise ValueError(
            f"--resume goes on with what the folder holds, and {', '.join(given)} would "
            f"change it: leave that out, or begin a new run."
        )

"""The command `hdet federate`; `hdet.commands` adds it to the command line."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ...errors import MissingDataError
from .data import TASKS
from .execution import run
from .folder import ENGINES, DivergedError, Folder, Plan, RunError
from .options import FIELDS, check, plan
from .report import table, write_report
from .settings import SELECTORS, STRATEGIES, Settings
from .summary import summarise

_console = Console(stderr=True)


def federate(
    context: typer.Context,
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")] = Settings.task,
    clients: Annotated[int, typer.Option(help="How many there are.")] = Settings.clients,
    per_round: Annotated[int, typer.Option(help="How many train in a round.")] = Settings.count,
    alpha: Annotated[
        float, typer.Option(help="Dirichlet concentration of the split; small is uneven.")
    ] = Settings.concentration,
    rounds: Annotated[int, typer.Option(help="How many rounds.")] = Settings.rounds,
    strategy: Annotated[
        str, typer.Option(help=f"One of {', '.join(STRATEGIES)}.")
    ] = Settings.strategy,
    selector: Annotated[
        str, typer.Option(help=f"One of {', '.join(SELECTORS)}.")
    ] = Settings.selector,
    lr: Annotated[
        float, typer.Option(help="beta^0, the clients' learning rate.")
    ] = Settings.local_rate,
    server_lr: Annotated[
        float, typer.Option(help="alpha^0, the server's: a factor on the mean update.")
    ] = Settings.global_rate,
    steps: Annotated[
        int, typer.Option(help="Local optimizer steps in a round.")
    ] = Settings.steps,
    batch: Annotated[int, typer.Option(help="Images in a local step.")] = Settings.batch,
    mu: Annotated[
        float | None,
        typer.Option(
            help="FedProx's mu, with any strategy.", show_default="0.1 for fedprox, else 0"
        ),
    ] = None,
    momentum: Annotated[float, typer.Option(help="Of local SGD.")] = Settings.momentum,
    seed: Annotated[
        int, typer.Option(help="Of split, weights, batches and selection.")
    ] = Settings.seed,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = Settings.dtype,
    engine: Annotated[
        str, typer.Option(help=f"Where clients train: {' or '.join(ENGINES)}.")
    ] = Plan.engine,
    data: Annotated[
        Path | None, typer.Option(help="Where the task's data are, if not where expected.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; default runs/federate-...")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run again what this folder asks for, if unfinished.")
    ] = None,
) -> None:
    """Train one model on many clients' data, and report how it went.

    Images are dealt out to clients unevenly; in every round a selector chooses some of them,
    they train, and a strategy makes a new model of what they send. The folder that is printed
    at the end has every number, the plots, and report.html.
    """
    path = resume or out or Path("runs") / f"federate-{task}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Folder(path)
    try:
        if resume is not None:
            _nothing_else_given(context)
            check(folder.plan())
        else:
            given = {name: context.params[name] for name in FIELDS}
            given["data"] = None if data is None else str(data.resolve())
            made = plan(given, engine)
            _nothing_there(path)
            folder.create(made)
        print(f"Folder: {path}", flush=True)
        run(folder)
        report = write_report(folder)
    except (ValueError, MissingDataError) as error:
        _say(f"[red]hdet federate:[/red] {escape(str(error))}")
        raise typer.Exit(2) from None
    except RunError as error:
        _say(f"\n[red]{escape(str(error))}[/red]")
        if not isinstance(error, DivergedError):
            _say_how_to_go_on(path, "Once the cause is gone, begin again with")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say("\nStopped.")
        _say_how_to_go_on(path, "Begin again at round 1, to the same numbers, with")
        raise typer.Exit(130) from None
    settings = folder.plan().settings
    Console().print(table(summarise(folder.records(), settings), folder.seconds()))
    print(f"Report: {report}")


def _say(markup: str) -> None:
    # A path that is broken at the window's edge cannot be copied.
    _console.print(markup, highlight=False, soft_wrap=True)


def _say_how_to_go_on(path: Path, words: str) -> None:
    if (path / "config.json").exists():
        _say(f"{words}: hdet federate --resume {escape(shlex.quote(str(path)))}")


def _nothing_there(path: Path) -> None:
    """Raise if `path` holds anything: a run must not mix with other files."""
    if (path / "config.json").exists():
        raise ValueError(
            f"--out {path} holds a run already: go on with it by `hdet federate --resume "
            f"{path}`, or name another folder."
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--out {path} is not an empty folder: name one that is not there.")


def _nothing_else_given(context: typer.Context) -> None:
    """Raise if another option was given: the folder says what the run is."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name != "resume"
        and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise ValueError(
            f"--resume goes on with what the folder holds, and {', '.join(given)} would "
            f"change it: leave that out, or begin a new run."
        )

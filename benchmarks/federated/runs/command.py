"""The command `hdet federate`; `hdet.commands` adds it to the command line."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ...core.commands import errors_said, nothing_else_given, ready
from .data import TASKS
from .execution import run
from .folder import ENGINES, Folder, Plan
from .options import FIELDS, check, plan
from .report import table, write_report
from .settings import SELECTORS, STRATEGIES, Settings
from .summary import summarise

COMMAND = "hdet federate"


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
    with errors_said(COMMAND, path, "begin again, to the same numbers,"):
        if resume is not None:
            nothing_else_given(context, {"resume"})
            made = folder.plan()
            check(made)
        else:
            given = {name: context.params[name] for name in FIELDS}
            given["data"] = None if data is None else str(data.resolve())
            made = plan(given, engine)
        with ready(folder, made, resume is not None):
            print(f"Folder: {path}", flush=True)
            run(folder)
            report = write_report(folder)
            found = summarise(folder.records(), made.settings)
            Console().print(table(found, folder.seconds()))
            print(f"Report: {report}")

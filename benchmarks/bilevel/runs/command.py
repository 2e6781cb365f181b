"""The command `hdet bilevel`; `hdet.commands` adds it to the command line."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hdet.bilevel.solvers import SOLVERS

from ...core.commands import errors_said, nothing_else_given, ready
from .execution import run
from .folder import Folder
from .methods import METHODS
from .report import table, write_report
from .settings import BUDGETS, OPTIONS, Settings, in_options, load
from .tasks import TASKS

COMMAND = "hdet bilevel"


def bilevel(
    context: typer.Context,
    task: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(TASKS)}.", show_default=False)
    ] = None,
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(METHODS)}.")
    ] = Settings.method,
    accuracy: Annotated[
        float | None, typer.Option(help="eps0, first accuracy of the lower level, in x.")
    ] = None,
    step: Annotated[float | None, typer.Option(help="alpha0, the first step.")] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            help="Largest cost: lower gradients, Hessian-vector and mixed products.",
            show_default=", ".join(f"{name} {cost}" for name, cost in BUDGETS.items()),
        ),
    ] = None,
    max_steps: Annotated[int, typer.Option(help="Outer steps in all.")] = Settings.max_steps,
    tolerance: Annotated[
        float, typer.Option(help="Hypergradient's norm at which to stop; 0 goes on.")
    ] = Settings.tolerance,
    solver: Annotated[
        str, typer.Option(help=f"Of the lower level: {', '.join(SOLVERS)}.")
    ] = Settings.solver,
    certify: Annotated[
        bool | None,
        typer.Option(
            "--certify/--no-certify",
            help="Whether MAID tests its bound on the hypergradient's error.",
            show_default="where all constants are known",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the task's data, noise and start.")
    ] = Settings.seed,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; default runs/bilevel-...")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with this run folder; --budget and --max-steps may be raised."
        ),
    ] = None,
) -> None:
    """Learn hyperparameters by implicit differentiation, and report how it went.

    TASK is a problem like those of the MAID paper: quadratic, two quadratic
    levels; logistic, a penalty for each weight of a classifier of digits; tv and
    foe, denoising by total variation and by fields of experts.

    The folder that is printed at the end has every number, the plots, and
    report.html.
    """
    path = resume or out or Path("runs") / f"bilevel-{task}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Folder(path)
    with errors_said(COMMAND, path):
        if resume is not None:
            if task is not None:
                raise ValueError(f"--resume goes on with the folder's task: leave {task} out.")
            nothing_else_given(context, {"resume", "budget", "max_steps", "task"})
            made = _extended(context, folder.settings())
        elif task is None:
            raise ValueError(f"TASK is missing: write one of {', '.join(TASKS)}.")
        else:
            given = {name: context.params[name] for name in OPTIONS}
            given["budget"] = BUDGETS.get(task, 1) if budget is None else budget
            made = _checked({"task": task, **given})
        with ready(folder, made, resume is not None):
            if made != folder.settings():
                folder.extend(made)
            print(f"Folder: {path}", flush=True)
            run(folder)
            report = write_report(folder)
            Console().print(table(folder))
            print(f"Report: {report}")


def _extended(context: typer.Context, before: Settings) -> Settings:
    """Return what the folder asks for, with the limits that were given anew."""
    given = {
        name: context.params[name]
        for name in ("budget", "max_steps")
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    return _checked({**vars(before), **given})


def _checked(given: dict[str, object]) -> Settings:
    """Return settings that a run can begin with.

    Raises:
        ValueError: naming the option, the rule, the value and the remedy.
    """
    try:
        made = Settings(**given)  # pyright: ignore[reportArgumentType]
        load(made)
    except ValueError as error:
        raise ValueError(in_options(str(error))) from error
    return made

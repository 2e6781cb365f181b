"""The command `python -m benchmarks bilevel`."""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..core.commands import MOST, errors_said, nothing_else_given, ready
from ..core.units import do_runs
from .execution import load, outcome
from .findings import findings
from .report import tables, write_report
from .units import BUDGETS, EXPERIMENTS, FIRST_SEED, Folder, Plan, unfinished, units

COMMAND = "python -m benchmarks bilevel"


def bilevel(
    context: typer.Context,
    experiments: Annotated[
        str, typer.Option(help=f"Names, separated by commas: {', '.join(EXPERIMENTS)}.")
    ] = ",".join(EXPERIMENTS),
    tasks: Annotated[
        str, typer.Option(help=f"To compare on: {', '.join(BUDGETS)}.")
    ] = ",".join(BUDGETS),
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST, help="Runs of each method from each start.")
    ] = Plan.seeds,
    scale: Annotated[
        float, typer.Option(help="Factor of all budgets, as 0.1 for a quick look.")
    ] = Plan.scale,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; default runs/bilevel-...")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Runs at once; default one per core.")
    ] = None,
) -> None:
    """Compare MAID with fixed accuracies and HOAG, at equal cost from every first accuracy.

    Hundreds of runs of seconds each; --scale 0.1 --seeds 1 tells the most of it in minutes.
    The folder that is printed has every number, plots and report.html.
    """
    path = resume or out or Path("runs") / f"bilevel-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Folder(path)
    with errors_said(COMMAND, path):
        if resume is not None:
            nothing_else_given(context, {"resume", "processes"})
            plan = folder.plan()
        else:
            if not 0 < scale < float("inf"):
                raise ValueError(f"--scale {scale:g} must be finite and above 0: try 0.1.")
            plan = Plan(
                _names("experiments", experiments, EXPERIMENTS),
                _names("tasks", tasks, BUDGETS),
                seeds,
                scale,
            )
        every = units(plan)
        for task in dict.fromkeys(unit.task for unit in every if unit.task in BUDGETS):
            # Missing data are an error of the user's: say so before anything is written.
            load(task, FIRST_SEED)
        with ready(folder, plan, resume is not None):
            print(f"Runs: {len(every)}, {len(unfinished(folder))} to do.", flush=True)
            print(f"Folder: {path}", flush=True)
            if "comparison" in plan.experiments and "dfo-ls" not in plan.methods:
                print("Without DFO-LS, which is not installed: pip install hdet[peers].")
            do_runs(folder, unfinished(folder), outcome, processes)
            report = write_report(folder)
            found = findings(folder)
            for table in tables(found):
                Console().print(table)
            for verdict in found.verdicts:
                said = "yes" if verdict.clear else "by the means" if verdict.reached else "no"
                print(f"{verdict.task}: {verdict.wanted}: {said}")
            print(f"Report: {report}")


def _names(option: str, text: str, known: Collection[str]) -> list[str]:
    """Return the names in their own order, each once.

    Raises:
        ValueError: if there is none, or one is not known.
    """
    given = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(given - set(known)):
        raise ValueError(
            f"--{option}: there is no {', '.join(unknown)}: choose from {', '.join(known)}."
        )
    if not given:
        raise ValueError(f"--{option} names none: choose from {', '.join(known)}.")
    return [name for name in known if name in given]

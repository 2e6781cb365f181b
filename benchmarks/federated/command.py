"""The command `python -m benchmarks federated`."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..core.commands import MOST, errors_said, nothing_else_given, ready
from ..core.units import do_runs
from .execution import outcome
from .findings import findings
from .report import tables, write_report
from .runs.data import load
from .units import EXPERIMENTS, Folder, Plan, unfinished, units

COMMAND = "python -m benchmarks federated"


def federated(
    context: typer.Context,
    experiments: Annotated[
        str, typer.Option(help=f"Names, separated by commas: {', '.join(EXPERIMENTS)}.")
    ] = ",".join(EXPERIMENTS),
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST, help="Runs of each strategy from each start.")
    ] = Plan.rate_seeds,
    selection_seeds: Annotated[
        int, typer.Option(min=1, max=MOST, help="Runs of each selector.")
    ] = Plan.selection_seeds,
    rounds: Annotated[
        int, typer.Option(min=2, help="Of a run of rates; selection has twice as many.")
    ] = Plan.rounds,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; default runs/federated-...")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Runs at once; default one per core.")
    ] = None,
) -> None:
    """Compare federated learning rates from every start, and client selectors.

    Thousands of small runs, hours on a few cores; --seeds 1 --selection-seeds 2 tells the
    most of it sooner. The folder that is printed has every number, plots and report.html.
    """
    path = resume or out or Path("runs") / f"federated-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Folder(path)
    with errors_said(COMMAND, path):
        if resume is not None:
            nothing_else_given(context, {"resume", "processes"})
            plan = folder.plan()
        else:
            plan = Plan(_experiments(experiments), seeds, selection_seeds, rounds)
        every = [unit.settings for unit in units(plan)]
        for source in dict.fromkeys((s.task, s.data, s.pool) for s in every):
            # Missing data are an error of the user's: say so before anything is written.
            load(*source)
        with ready(folder, plan, resume is not None):
            print(f"Runs: {len(every)}, {len(unfinished(folder))} to do.", flush=True)
            print(f"Folder: {path}", flush=True)
            do_runs(folder, unfinished(folder), outcome, processes)
            report = write_report(folder)
            found = findings(folder)
            for table in tables(found):
                Console().print(table)
            for verdict in found.verdicts:
                said = "yes" if verdict.clear else "by the means" if verdict.reached else "no"
                print(f"{verdict.task}: {verdict.wanted}: {said}")
            print(f"Report: {report}")


def _experiments(text: str) -> list[str]:
    """Return the names in their own order, each once.

    Raises:
        ValueError: if there is none, or one is not known.
    """
    given = {name.strip() for name in text.split(",") if name.strip()}
    known = ", ".join(EXPERIMENTS)
    if unknown := sorted(given - set(EXPERIMENTS)):
        raise ValueError(
            f"--experiments: there is no {', '.join(unknown)}: choose from {known}."
        )
    if not given:
        raise ValueError(f"--experiments names none: choose from {known}.")
    return [name for name in EXPERIMENTS if name in given]

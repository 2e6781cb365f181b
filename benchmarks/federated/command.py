"""The command `python -m benchmarks federated`."""

from pathlib import Path
from typing import Annotated

import typer

from ..core.commands import MOST, Out, Processes, Resume, names, run_folder
from ..core.report import print_table, write_report
from ..core.units import do_runs
from .analysis import command, found_in, tables
from .selections import compared
from .study import EXPERIMENTS, Folder, Plan, outcome, unfinished, units
from .tasks import load

# What the terminal has room for.
_SHOWN = ("mean accuracy", "lowest gain", "worst start", "last accuracy", "late deviation")


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
    out: Out = None,
    resume: Resume = None,
    processes: Processes = None,
) -> None:
    """Compare federated learning rates from every start, and client selectors.

    Thousands of small runs, hours on a few cores; --seeds 1 --selection-seeds 2 tells the
    most of it sooner. The folder that is printed has every number, plots and report.html.
    """

    def asked() -> Plan:
        of = names("experiments", experiments, EXPERIMENTS)
        return Plan(of, seeds, selection_seeds, rounds)

    def check(plan: Plan) -> None:
        every = [unit.settings for unit in units(plan)]
        for source in dict.fromkeys((s.task, s.pool) for s in every):
            # Missing data are an error of the user's: say so before anything is written.
            load(*source)

    with run_folder(context, Folder, asked, check) as (folder, plan):
        print(f"Runs: {len(list(units(plan)))}, {len(unfinished(folder))} to do.", flush=True)
        print(f"Folder: {folder.path}", flush=True)
        do_runs(folder, unfinished(folder), outcome, processes)
        print(f"Report: {report(folder)}")


def report(folder: Folder) -> Path:
    """Draw what a folder has so far, show its tables, and write its `report.html`."""
    # Matplotlib is slow to import, and the hours of a run need none of it.
    from .plots import draw_all

    grid, chosen = found_in(folder)
    made = tables(grid, chosen)
    for title, rows in made.items():
        if shown := [name for name in rows.columns if name in _SHOWN]:
            print_table(rows.filter([rows.columns[0], *shown]), title)
    return write_report(
        folder.path,
        "Federated: rates from every start, and who is asked to train",
        command(folder.plan()),
        made,
        draw_all(grid, compared(chosen), folder.path / "plots"),
        folder.environment(),
        len(unfinished(folder)),
        "Accuracy is of held-out images, in percent, mean of the last rounds; ± is the "
        "standard error over seeds, brackets the 95 % interval of differences paired by seed.",
    )

"""The command `python -m benchmarks bilevel`."""

from pathlib import Path
from typing import Annotated

import typer

from ..core.commands import MOST, Out, Processes, Resume, names, run_folder
from ..core.failures import FolderError
from ..core.report import print_table, write_report
from ..core.units import do_runs
from .study import BUDGETS, COMMAND, EXPERIMENTS, Folder, Plan, load, outcome, unfinished, units

TITLE = "Bilevel: MAID and its baselines from every first accuracy, at equal cost"
INTRODUCTION = (
    "Every method has the same cost: lower gradients, Hessian-vector and mixed products "
    "together. Losses are the upper level's, at the exact lower-level solution where a run "
    "stands when that is spent or it stops by itself. Means over seeds, ± the standard error; "
    "ratios are geometric means. The spread says how much larger the largest loss of the "
    "starts is than the smallest; stopped are runs that ended before their cost was spent."
)


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
    out: Out = None,
    resume: Resume = None,
    processes: Processes = None,
) -> None:
    """Compare MAID with fixed accuracies and HOAG, at equal cost from every first accuracy.

    Hundreds of runs of seconds each; --scale 0.1 --seeds 1 gives a first impression in
    minutes. The folder that is printed has every number, plots and report.html.
    """

    def asked() -> Plan:
        if not 0 < scale < float("inf"):
            raise ValueError(f"--scale {scale:g} must be finite and above 0: try 0.1.")
        of = names("experiments", experiments, EXPERIMENTS), names("tasks", tasks, BUDGETS)
        return Plan(*of, seeds, scale)

    def check(plan: Plan) -> None:
        for task in dict.fromkeys(unit.task for unit in units(plan) if unit.task in BUDGETS):
            # Missing data are for the user to fetch: say so before anything is written.
            load(task, 0)

    with run_folder(context, Folder, asked, check) as (folder, plan):
        print(f"Runs: {len(list(units(plan)))}, {len(unfinished(folder))} to do.", flush=True)
        print(f"Folder: {folder.path}", flush=True)
        if "comparison" in plan.experiments and "dfo-ls" not in plan.methods:
            print("Without DFO-LS, which is not installed: pip install DFO-LS.")
        do_runs(folder, unfinished(folder), outcome, processes)
        print(f"Report: {report(folder)}")


def report(folder: Folder) -> Path:
    """Show the losses on the terminal, write plots and report.html, and return that file.

    Raises:
        FolderError: if nothing in the folder can be compared yet.
    """
    # pandas and Matplotlib are slow to import, and the hours of a run need none of them.
    from .analysis import command, tables
    from .plots import draw_all

    found = tables(folder)
    if not found:
        raise FolderError(
            f"{folder.path} has no method with all of its starts yet: go on with it by "
            f"`{COMMAND} --resume`."
        )
    for title, table in found.items():
        if title.endswith(": loss"):
            # Errors have no room in 80 columns.
            print_table(table.map(lambda text: text.partition(" ±")[0]), title)
    return write_report(
        folder.path,
        TITLE,
        command(folder.plan()),
        found,
        draw_all(folder, folder.path / "plots"),
        folder.environment(),
        len(unfinished(folder)),
        INTRODUCTION,
    )

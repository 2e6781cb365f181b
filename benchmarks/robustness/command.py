"""The command `python -m benchmarks robustness`."""

import shlex
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from ..core.commands import MOST, Out, Processes, Resume, names, run_folder
from ..core.failures import MissingDataError
from ..core.files import write_json
from ..core.report import print_table, write_report
from .analysis import (
    cells,
    noise_table,
    problem_table,
    references,
    standings_table,
    summary,
)
from .methods import LABELS
from .problems import CONFIRMATION, PROBLEMS, load
from .runs import COMMAND, FULL, TIERS, Folder, Runs, Settings, start_label
from .study import plan, run_all


def robustness(
    context: typer.Context,
    tier: Annotated[
        str, typer.Option(help="fast: the tuning problems, in minutes; full: all, overnight.")
    ] = FULL,
    problems: Annotated[
        str,
        typer.Option(help=f"Default the tier's. Separated by commas: {', '.join(PROBLEMS)}."),
    ] = "",
    methods: Annotated[
        str, typer.Option(help=f"Names, separated by commas: {', '.join(LABELS)}.")
    ] = "",
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Runs from each start; default the tier's."),
    ] = None,
    starts: Annotated[
        str,
        typer.Option(help="Initial peak rates, as multiples of the best; default the tier's."),
    ] = "",
    out: Out = None,
    resume: Resume = None,
    processes: Processes = None,
) -> None:
    """Start every method from rates far too low to far too high, and see how it ends.

    A sweep of plain DDP finds each problem's best peak rate first; the starts are
    multiples of it. The folder that is printed has every number, plots and report.html.
    """

    def asked() -> Settings:
        named = names("problems", problems, PROBLEMS)
        of_methods = names("methods", methods, LABELS)
        settings = plan(named, of_methods, _numbers(starts), seeds, tier)
        return settings if named else _with_data(settings)

    def check(settings: Settings) -> None:
        for problem in settings.problems:
            # Missing data are an error of the user's: say so before anything is written.
            load(problem)

    with run_folder(context, Folder, asked, check) as (folder, _):
        print(f"Folder: {folder.path}", flush=True)
        run_all(folder, processes)
        print(f"Report: {report(folder)}")


def report(folder: Folder) -> Path:
    """Write `summary.json`, plots and `report.html`, and show the table; return the page."""
    # Matplotlib is slow to import, and the hours of a run need none of it.
    from .plots import draw_all

    runs = Runs(folder)
    every, settings = cells(runs), runs.settings
    write_json(folder.path / "summary.json", summary(runs))
    tables = {"Over all problems and starts": standings_table(every)}
    confirmed = every[every["split"] == CONFIRMATION]
    if 0 < len(confirmed) < len(every):
        tables["Over the confirmation problems"] = standings_table(confirmed)
    tables["The problems and their noise"] = noise_table(references(runs))
    for problem in dict.fromkeys(every["problem"]):
        tables[problem] = problem_table(every, problem)
    print_table(tables["The problems and their noise"])
    # A terminal has 80 columns.
    print_table(tables["Over all problems and starts"].drop(columns="worst on"))
    return write_report(
        folder.path,
        "Does a run end well wherever its learning rate starts?",
        _again(settings),
        tables,
        draw_all(folder.path / "plots", runs),
        folder.environment(),
        len(runs.unfinished()),
        "Regret of the held-out loss against the best rate of a sweep of plain DDP, in "
        "percent; a loss is capped at that of the initial weights. ° needs no initial rate.",
    )


def _again(settings: Settings) -> str:
    """Return the command that makes such a folder again."""
    words = [
        *COMMAND.split(),
        "--tier",
        settings.tier,
        "--problems",
        ",".join(p.name for p in settings.problems),
    ]
    words += ["--methods", ",".join(settings.methods), "--seeds", str(settings.seeds)]
    if settings.starts != list(TIERS[settings.tier][1]):
        words += ["--starts", ",".join(map(start_label, settings.starts))]
    return shlex.join(words)


def _with_data(settings: Settings) -> Settings:
    """Return the settings without the problems whose data are not on this machine."""
    found = []
    for problem in settings.problems:
        try:
            load(problem)
        except MissingDataError as error:
            print(f"{problem.name} is left out: {error}")
        else:
            found.append(problem)
    return replace(settings, problems=found)


def _numbers(text: str) -> list[float]:
    try:
        return [float(Fraction(part)) for part in text.split(",") if part.strip()]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"--starts {text!r} must be numbers: try 1/10,1,10.") from None

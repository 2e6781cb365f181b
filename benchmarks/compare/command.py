"""The command `python -m benchmarks compare`."""

from pathlib import Path
from typing import Annotated

import typer

from ..core.commands import MOST, Out, Resume, run_folder
from ..core.files import write_json
from ..core.ranks import first_process, on_ranks, world_size
from ..core.report import print_table, write_report
from ..tasks import TASKS, get_task
from .analysis import missing, summarise, table
from .records import RunFolder, Settings
from .study import plan, run_all


def compare(
    context: typer.Context,
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")] = "text",
    replicas: Annotated[
        int,
        typer.Option(min=1, max=MOST, help="Local processes; torchrun's ranks count instead."),
    ] = 4,
    steps: Annotated[int, typer.Option(min=10, help="Optimizer steps of each run.")] = 200,
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST, help="Runs of each configuration.")
    ] = 2,
    only: Annotated[
        str, typer.Option(help="Names of configurations, separated by commas.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(help="Where the task's data are, if not where expected."),
    ] = None,
    out: Out = None,
    resume: Resume = None,
    sync_every: Annotated[
        int, typer.Option(min=1, help="T, optimizer steps between averagings.")
    ] = 5,
    spread: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="alpha, the paper's 1/9.")
    ] = 1 / 9,
    loss_scale: Annotated[
        float, typer.Option(help="sigma of the controller, the paper's 0.1.")
    ] = 0.1,
) -> None:
    """Run the paper's ablation and its missing controls, and report what is seen.

    Six configurations of the HDET paper and six controls train the same small model on
    the same stream. The folder that is printed at the end has every number, the plots,
    and report.html.
    """

    def asked() -> Settings:
        return plan(
            task=task,
            replicas=world_size() or replicas,
            steps=steps,
            seeds=seeds,
            only=only,
            data=None if data is None else str(data.resolve()),
            sync_every=sync_every,
            spread=spread,
            loss_scale=loss_scale,
        )

    def check(settings: Settings) -> None:
        # Missing data are an error of the user's: say so here, not from a rank.
        get_task(settings.task, settings.data)
        if world_size() not in (None, settings.replicas):
            raise ValueError(
                f"{resume} was begun with {settings.replicas} replicas, and torchrun "
                f"has started {world_size()}: start as many as before."
            )

    with run_folder(context, RunFolder, asked, check) as (folder, settings):
        if first_process():
            _introduce(folder.path, settings)
        if on_ranks(run_all, settings.replicas, str(folder.path), settings):
            print(f"Report: {report(folder)}")


def report(folder: RunFolder) -> Path:
    """Write `summary.json`, plots and `report.html`, and show the table; return the page."""
    # Matplotlib is slow to import, and the hours of a run need none of it.
    from .plots import draw_all, to_hover

    settings, rows, lacking = folder.plan(), summarise(folder), missing(folder)
    write_json(folder.path / "summary.json", {"rows": rows, "missing": lacking})
    print_table(table(rows), "Losses: mean ± standard error over seeds.")
    return write_report(
        folder.path,
        f"The paper's ablation: {settings.title}",
        _again(settings),
        {"Every configuration": table(rows, paper=True)},
        draw_all(folder),
        folder.environment(),
        len(lacking),
        f"Six configurations of the HDET paper and their controls: {settings.replicas} "
        f"replicas, {settings.steps} steps, {settings.seeds} seeds, T = {settings.sync_every}. "
        f"Losses are means ± standard errors over seeds; the rate is the mean over steps.",
        to_hover(folder),
    )


def _again(settings: Settings) -> str:
    """Return the command that makes such a folder again, without the user's path."""
    names = ("task", "steps", "seeds", "replicas", "sync_every", "spread", "loss_scale")
    words = [f"--{name.replace('_', '-')} {getattr(settings, name)}" for name in names]
    words.append(f"--only {','.join(row.name for row in settings.configurations)}")
    words += ["--data <path>"] if settings.data else []
    return " ".join([RunFolder.command, *words])


def _introduce(folder: Path, settings: Settings) -> None:
    warm = settings.warm_steps
    print(
        f"{settings.title}: {len(settings.configurations)} configurations x "
        f"{settings.seeds} seeds x {settings.steps} steps on {settings.replicas} "
        f"replicas"
        + (f"; warm starts from a checkpoint of {warm} steps a seed." if warm else "."),
        flush=True,
    )
    print(f"Folder: {folder}", flush=True)

"""`python -m benchmarks compare`: the paper's ablation and its missing controls, in one go.

The comparison is a list of units, each one configuration with one seed. A finished unit
has a `result.json`; so a comparison that was killed goes on by doing the units that
have none, the first of them from its last checkpoint.
"""

import math
from pathlib import Path

import torch.distributed as dist
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from hdet.seeding import generator

from ..core.commands import names
from ..tasks import get_task
from .configurations import checkpoint, configurations
from .records import CHECKPOINT, Configuration, Result, RunFolder, Settings
from .training import run


def units(settings: Settings) -> list[tuple[Configuration, int]]:
    """Return what is to be run, seed by seed, a checkpoint before who needs it."""
    task = get_task(settings.task, settings.data)
    plan = []
    for seed in range(settings.seeds):
        if any(row.warm_start for row in settings.configurations):
            plan.append((checkpoint(task), seed))
        plan += [(row, seed) for row in settings.configurations]
    return plan


def unfinished(folder: RunFolder) -> list[tuple[Configuration, int]]:
    """Return the units of `folder` that have no result yet."""
    settings = folder.plan()
    return [u for u in units(settings) if folder.result(u[0].name, u[1]) is None]


def plan(
    *,
    task: str,
    replicas: int,
    steps: int,
    seeds: int,
    only: str,
    data: str | None,
    sync_every: int,
    spread: float,
    loss_scale: float,
) -> Settings:
    """Turn the command's options into settings, or say what cannot be. Local.

    Raises:
        ValueError: naming what is wrong and what to write.
        MissingDataError: if the task's data are not there.
    """
    if replicas == 1:
        raise ValueError("one replica leaves nothing to compare: start at least 2.")
    if spread == 0:
        raise ValueError("--spread 0 leaves nothing to compare: try 0.11, or leave it out.")
    if not 0 < spread < 1:
        raise ValueError(f"--spread {spread:g} must lie between 0 and 1: try 0.11.")
    if not 0 < loss_scale < math.inf:
        raise ValueError(f"--loss-scale {loss_scale:g} must be finite and above 0: try 0.1.")
    problem = get_task(task, data)
    rows = configurations(problem, spread)
    wanted = names("only", only, [row.name for row in rows])
    rows = [row for row in rows if not wanted or row.name in wanted]
    warm_steps = steps // 2 if any(row.warm_start for row in rows) else 0
    longest = problem.max_steps(replicas)
    if longest is not None and steps + warm_steps > longest:
        most = longest * 2 // 3 if warm_steps else longest
        more = f", with {warm_steps} more for the checkpoint," if warm_steps else ""
        raise ValueError(
            f"--steps {steps}{more} is longer than one pass over the {task} stream at "
            f"{replicas} replicas, {longest} steps: give at most {most}."
        )
    # OneCycle peaks after three tenths of the run; there the controller takes over.
    auto_lr_after = max(1, round(0.3 * steps / sync_every)) * sync_every
    if auto_lr_after >= steps:
        raise ValueError(
            f"--sync-every {sync_every} leaves no interval for the controller in "
            f"--steps {steps}: sync more often or run longer."
        )
    return Settings(
        task=task,
        title=problem.title,
        groups=[g["name"] for g in problem.groups(problem.model(generator(0, "names")))],
        replicas=replicas,
        steps=steps,
        seeds=seeds,
        sync_every=sync_every,
        auto_lr_after=auto_lr_after,
        spread=spread,
        loss_scale=loss_scale,
        lr_of_lr=0.5,
        momentum_of_lr=0.9,
        noise=0.01,
        warm_steps=warm_steps,
        data=data,
        configurations=rows,
    )


def run_all(path: str, settings: Settings) -> None:
    """Run every unit of a folder that has no result yet; rank 0 shows progress. Collective."""
    # Under torchrun every rank has read its own clock for the folder's name.
    paths = [path]
    dist.broadcast_object_list(paths)
    folder = RunFolder(Path(paths[0]))
    task = get_task(settings.task, settings.data)
    todo = unfinished(folder)
    # The list must be read everywhere before rank 0 shortens it.
    dist.barrier()
    planned = len(units(settings))
    with _progress() as bars:
        every = bars.add_task("All runs", total=planned, completed=planned - len(todo), live="")
        for row, seed in todo:
            name = f"{row.name}, seed {seed}"
            steps = settings.warm_steps if row.name == CHECKPOINT else settings.steps
            bar = bars.add_task(name, total=steps, live="")

            def show(step: int, loss: float, lr: float, bar=bar) -> None:
                live = f"loss {_number(loss)} base LR {lr:.1e}"
                bars.update(bar, completed=step, live=live)

            result = run(folder, settings, task, row, seed, show)
            bars.remove_task(bar)
            bars.console.print(_line(name, result), highlight=False, soft_wrap=True)
            bars.advance(every)


def _progress() -> Progress:
    """Return the bars, 80 columns wide or more; on rank 0 and a terminal only."""
    console = Console(quiet=dist.get_rank() != 0)
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        # The bar gives way, so that at 80 columns nothing else is cut.
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[live]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        console=console,
        expand=True,
        disable=dist.get_rank() != 0 or not console.is_terminal,
    )


def _line(name: str, result: Result) -> str:
    """Return what is said of a finished run, in at most 80 columns."""
    return (
        f"{name:<27} train {_number(result.train_loss)}  "
        f"held-out {_number(result.held_out_loss)}  {result.seconds:5.1f} s"
        f"{'  diverged' if result.diverged else ''}"
    )


def _number(loss: float) -> str:
    """Return a loss in seven columns, however far it has diverged."""
    plain = f"{loss:7.4f}"
    return plain if len(plain) == 7 else f"{loss:7.1e}"

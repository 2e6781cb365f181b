"""`hdet compare`: the paper's ablation and its missing controls, in one go.

The comparison is a list of units, each one configuration with one seed. A finished unit has
a `result.json`; so a comparison that was killed goes on by doing the units that have none.
"""

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

from ..seeding import generator
from .configurations import CHECKPOINT, checkpoint, configurations
from .records import Configuration, RunFolder, Settings
from .tasks import get_task
from .training import run


def units(settings: Settings) -> list[tuple[Configuration, int]]:
    """Return what is to be run, seed by seed, a checkpoint before who starts from it."""
    task = get_task(settings.task, settings.data)
    plan = []
    for seed in range(settings.seeds):
        if any(row.warm_start for row in settings.configurations):
            plan.append((checkpoint(task), seed))
        plan += [(row, seed) for row in settings.configurations]
    return plan


def unfinished(folder: RunFolder) -> list[tuple[Configuration, int]]:
    """Return the units of `folder` that have no result yet."""
    settings = folder.settings()
    return [u for u in units(settings) if folder.result(u[0].name, u[1]) is None]


def plan(
    *,
    task: str,
    replicas: int,
    steps: int,
    seeds: int,
    only: list[str],
    data: str | None,
    sync_every: int,
    spread: float,
    loss_scale: float,
) -> Settings:
    """Turn what the user asked for into settings, or say what cannot be. Local.

    Args:
        task: name of the task.
        replicas: N.
        steps: optimizer steps of each run.
        seeds: runs of each configuration.
        only: names of the configurations to run; empty for all.
        data: path of the task's data, or None.
        sync_every: T.
        spread: alpha.
        loss_scale: sigma.

    Raises:
        ValueError: naming what is wrong and what to write.
        MissingDataError: if the task's data are not there.
    """
    problem = get_task(task, data)
    rows = configurations(problem, spread)
    names = [row.name for row in rows]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(
            f"--only names {', '.join(unknown)}, which are not configurations: choose "
            f"from {', '.join(names)}."
        )
    rows = [row for row in rows if not only or row.name in only]
    warm_steps = steps // 2 if any(row.warm_start for row in rows) else 0
    longest = problem.max_steps(replicas)
    if longest is not None and steps + warm_steps > longest:
        raise ValueError(
            f"--steps {steps}, with {warm_steps} more for the checkpoint, is longer than "
            f"one pass over the {task} stream at {replicas} replicas, {longest} steps: "
            f"give at most {longest * 2 // 3}."
        )
    if spread == 0 or replicas == 1:
        raise ValueError(
            f"--spread {spread:g} with {replicas} replicas leaves nothing to compare: "
            f"give a spread above 0 and at least 2 replicas."
        )
    if loss_scale <= 0:
        raise ValueError(f"--loss-scale {loss_scale:g} must be above 0: try 0.1.")
    # OneCycle peaks after three tenths of the run; the controller takes over from there.
    auto_lr_after = max(1, round(0.3 * steps / sync_every)) * sync_every
    if auto_lr_after >= steps:
        raise ValueError(
            f"--sync-every {sync_every} leaves no interval for the controller in --steps "
            f"{steps}: sync more often or run longer."
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
    """Run every unit that has no result yet; rank 0 shows progress. Collective.

    Args:
        path: the run folder; made if it has no `config.json`.
        settings: what was asked for.
    """
    # Under torchrun every rank has read its own clock for the folder's name.
    names = [path]
    dist.broadcast_object_list(names)
    folder = RunFolder(Path(names[0]))
    if dist.get_rank() == 0 and not (folder.path / "config.json").exists():
        folder.create(settings)
    dist.barrier()
    task = get_task(settings.task, settings.data)
    todo = unfinished(folder)
    # The list must be read everywhere before rank 0 shortens it.
    dist.barrier()
    console = Console(quiet=dist.get_rank() != 0)
    with Progress(
        TextColumn("[bold]{task.description:<36}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:8.4f}  base LR {task.fields[lr]:.2e}"),
        TimeRemainingColumn(),
        console=console,
        disable=dist.get_rank() != 0,
    ) as bars:
        every = bars.add_task("All runs", total=len(todo), loss=float("nan"), lr=0.0)
        for row, seed in todo:
            if row.name == CHECKPOINT:
                bars.console.print(
                    f"Training the checkpoint for warm starts, seed {seed}: "
                    f"{settings.warm_steps} steps at {row.lr:g}."
                )
            steps = settings.warm_steps if row.name == CHECKPOINT else settings.steps
            bar = bars.add_task(
                f"{row.label}, seed {seed}", total=steps, loss=float("nan"), lr=row.lr
            )

            def show(step: int, loss: float, lr: float, bar=bar) -> None:
                bars.update(bar, completed=step, loss=loss, lr=lr)

            result = run(folder, settings, task, row, seed, show)
            bars.update(bar, loss=result.train_loss, lr=result.final_lr, visible=False)
            bars.console.print(
                f"{row.label:<26} seed {seed}  train {result.train_loss:.4f}  "
                f"held-out {result.held_out_loss:.4f}  {result.seconds:5.1f} s"
                f"{'  diverged' if result.diverged else ''}"
            )
            bars.update(
                every, advance=1, loss=result.train_loss, lr=result.final_lr
            )

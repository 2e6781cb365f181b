"""The problems of the robustness benchmark, and what one run of one method gives.

A problem is a task with an optimizer and a number of steps. Everything a method may use is
here and the same for all: model and initial weights, the batches of each step (the replicas'
batches, or all of them as one), the one-cycle schedule, the held-out loss.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from hdet.seeding import generator

from ..tasks import Batch, Task, get_task

REPLICAS = 4
WEIGHT_DECAY = 0.01  # of AdamW, torch's default; SGD has none
MOMENTUM = 0.9


@dataclass(frozen=True)
class Problem:
    """A task with an optimizer; see the module's head."""

    name: str
    task: str
    optimizer: str  # `adamw`, or `sgd` with momentum
    steps: int
    centre: float  # a learning rate near the best, around which the sweep is laid
    schedule: str = "one-cycle"


@dataclass(frozen=True)
class Outcome:
    """How one run went."""

    held_out: float  # the loss at the end; NaN or infinite if the run diverged
    steps: list[int]  # from 1, at which `lrs` was read
    lrs: list[float]  # in effect, the mean over replicas and groups
    seconds: float  # of the training
    initial: float = math.nan  # the held-out loss of the initial weights
    # (step, held-out loss), about 30 times a run; the last is the end.
    curve: list[tuple[int, float]] = field(default_factory=list)
    forwards: float = 0.0  # forward passes beside those of training, in global batches


# A method trains one run: (problem, its loaded task, initial peak LR, seed) -> Outcome.
Method = Callable[[Problem, Task, float, int], Outcome]

PROBLEMS: dict[str, Problem] = {
    p.name: p
    for p in (
        Problem("text-adamw", "text", "adamw", 200, 1e-2),
        Problem("digits-adamw", "digits", "adamw", 300, 3e-2),
        Problem("digits-sgd", "digits", "sgd", 300, 1.5e-1),
        Problem("fashion-adamw", "fashion", "adamw", 250, 1e-2),
        Problem("teacher-adamw", "teacher", "adamw", 400, 1e-2),
        Problem("teacher-sgd", "teacher", "sgd", 400, 5e-2),
        Problem("regression-sgd", "regression", "sgd", 400, 1e-1),
        Problem("embedding-adamw", "embedding", "adamw", 400, 1e-2),
    )
}


def new_model(task: Task, seed: int) -> nn.Module:
    """Return the model that every method starts from."""
    return task.model(generator(seed, task.name, "model"))


def new_optimizer(problem: Problem, groups: Iterable[dict], lr: float) -> Optimizer:
    """Return the problem's optimizer over parameter groups, at one rate."""
    if problem.optimizer == "adamw":
        return AdamW(groups, lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
    return SGD(({**g, "weight_decay": 0.0} for g in groups), lr=lr, momentum=MOMENTUM)


def parameter_groups(problem: Problem, task: Task, model: nn.Module) -> list[dict]:
    """Return one group, as most scripts have; the embedding problem has the task's own."""
    if problem.task == "embedding":
        return task.groups(model)
    return [{"params": list(model.parameters()), "name": "all"}]


def one_cycle(optimizer: Optimizer, problem: Problem, lr: float) -> OneCycleLR:
    """Return the schedule that all methods with one share; momentum stays as it is."""
    return OneCycleLR(optimizer, lr, total_steps=problem.steps, cycle_momentum=False)


make_schedule = one_cycle


def replica_batch(task: Task, seed: int, step: int, rank: int) -> Batch:
    """Return what replica `rank` of `REPLICAS` sees at a step (from 0)."""
    return task.batch(seed, step, rank, REPLICAS)


def global_batch(task: Task, seed: int, step: int) -> Batch:
    """Return the batches of all replicas at a step as one: what plain DDP averages over."""
    parts = [replica_batch(task, seed, step, rank) for rank in range(REPLICAS)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


@torch.no_grad()
def held_out_loss(task: Task, model: nn.Module) -> float:
    """Return the mean loss over the held-out batches, in eval mode."""
    model.eval()
    losses: list[Tensor] = [task.loss(model, batch) for batch in task.held_out()]
    model.train()
    return float(torch.stack(losses).mean())


def load(problem: Problem) -> Task:
    """Return the problem's task with its data."""
    return get_task(problem.task)

"""The problems of the robustness benchmark, and what one run of one method gives.

A problem is a task with an optimizer, a schedule, a length and a batch size. Everything that a
method may use is here and the same for all: model and initial weights, parameter groups, the
batches of each step (the replicas' batches, or all of them as one), the schedule, the held-out
loss. `loop` trains.

Problems are split beforehand: rules may be tuned on the `tuning` ones alone, and are confirmed
on the others.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from hdet.seeding import generator

from ..tasks import Batch, Task, get_task
from .optimizers import MuonAdamW, schedule_free

REPLICAS = 4
WEIGHT_DECAY = 0.01  # of the Adams and Muon, torch's default for AdamW; SGD has none
MOMENTUM = 0.9
WARMUP = 0.1  # of a run
DECAY = 0.2  # of a run, at the end of `wsd`


@dataclass(frozen=True)
class Problem:
    """A task with all that a run is told; see the module's head."""

    name: str
    task: str
    optimizer: str  # `adamw`, `sgd` with momentum, `muon` or `schedule-free`
    schedule: str  # a key of `SCHEDULES`
    steps: int
    centre: float  # a learning rate near the best, around which the sweep is laid
    split: str  # `tuning` or `confirmation`
    batch_size: int = 0  # examples per replica and step; 0 for the task's own


@dataclass(frozen=True)
class Outcome:
    """How one run went."""

    held_out: float  # the loss at the end; NaN or infinite if the run diverged
    steps: list[int]  # from 1, at which `lrs` was read
    lrs: list[float]  # in effect, the mean over replicas and groups
    seconds: float  # of the training, without what was only measured
    initial: float = math.nan  # the held-out loss of the initial weights
    # (step, held-out loss), about 30 times a run; the last is the end.
    curve: list[tuple[int, float]] = field(default_factory=list)
    forwards: float = 0.0  # forward passes beside those of training, in global batches


# A method trains one run: (problem, its loaded task, initial peak LR, seed) -> Outcome.
Method = Callable[[Problem, Task, float, int], Outcome]

TUNING, CONFIRMATION = "tuning", "confirmation"
PROBLEMS: dict[str, Problem] = {}


def _tune(*about: Any) -> None:
    PROBLEMS[about[0]] = Problem(*about, split=TUNING)


def _confirm(*about: Any, batch_size: int = 0) -> None:
    PROBLEMS[about[0]] = Problem(*about, split=CONFIRMATION, batch_size=batch_size)


_tune("regression-sgd", "regression", "sgd", "one-cycle", 800, 1e-1)
_tune("teacher-adamw", "teacher", "adamw", "one-cycle", 800, 1e-2)
_tune("ngram-adamw", "ngram", "adamw", "one-cycle", 800, 1e-2)
_tune("gpt-0.1M", "gpt-0.1M", "adamw", "one-cycle", 800, 1e-2)
_tune("regression-sgd-2400", "regression", "sgd", "warmup-cosine", 2400, 1e-1)
_tune("ngram-adamw-cosine", "ngram", "adamw", "warmup-cosine", 400, 1e-2)
_confirm("teacher-sgd", "teacher", "sgd", "cosine", 800, 5e-2)
_confirm("embedding-adamw", "embedding", "adamw", "one-cycle", 800, 1e-2)
_confirm("fashion-adamw", "fashion-whole", "adamw", "warmup-cosine", 400, 1e-2)
# Three lengths, a factor of four apart.
_confirm("teacher-adamw-200", "teacher", "adamw", "one-cycle", 200, 1e-2)
_confirm("teacher-adamw-3200", "teacher", "adamw", "one-cycle", 3200, 1e-2)
_confirm("ngram-adamw-200", "ngram", "adamw", "one-cycle", 200, 3e-2)
_confirm("ngram-adamw-3200", "ngram", "adamw", "one-cycle", 3200, 1e-2)
_confirm("gpt-0.1M-200", "gpt-0.1M", "adamw", "one-cycle", 200, 3e-3)
_confirm("gpt-0.1M-3200", "gpt-0.1M", "adamw", "one-cycle", 3200, 1e-2)
# Other schedules, batch sizes, base optimizers and sizes.
_confirm("gpt-0.1M-cosine", "gpt-0.1M", "adamw", "warmup-cosine", 800, 3e-3)
_confirm("gpt-0.1M-wsd", "gpt-0.1M", "adamw", "wsd", 400, 3e-3, batch_size=8)
_confirm("gpt-0.1M-muon", "gpt-0.1M", "muon", "warmup-cosine", 800, 1e-2)
_confirm(
    "gpt-0.1M-free", "gpt-0.1M", "schedule-free", "warmup-constant", 400, 2e-3, batch_size=8
)
_confirm("gpt-1M", "gpt-1M", "adamw", "warmup-cosine", 350, 1e-3, batch_size=4)
_confirm("finetune-block", "finetune-block", "adamw", "warmup-cosine", 400, 3e-2)
_confirm("finetune-lora", "finetune-lora", "adamw", "warmup-cosine", 400, 1e-2)
_confirm("finetune-full", "finetune-full", "adamw", "warmup-cosine", 400, 1e-2)


def new_model(task: Task, seed: int) -> nn.Module:
    """Return the model that every method starts from."""
    return task.model(generator(seed, task.name, "model"))


def new_optimizer(problem: Problem, groups: Iterable[dict], lr: float) -> Optimizer:
    """Return the problem's optimizer over parameter groups, at one rate."""
    if problem.optimizer == "adamw":
        return AdamW(groups, lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
    if problem.optimizer == "muon":
        return MuonAdamW(groups, lr, WEIGHT_DECAY)
    if problem.optimizer == "schedule-free":
        return schedule_free(groups, lr, WEIGHT_DECAY)
    return SGD(({**g, "weight_decay": 0.0} for g in groups), lr=lr, momentum=MOMENTUM)


def parameter_groups(problem: Problem, task: Task, model: nn.Module) -> list[dict]:
    """Return one group of what is trained, as most scripts have.

    The embedding problem has the task's own groups. Muon's has the matrices within the blocks
    apart: the group `hidden` is Muon's.
    """
    if problem.task == "embedding":
        return task.groups(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if problem.optimizer != "muon":
        return [{"params": list(trained.values()), "name": "all"}]
    hidden = {n: p for n, p in trained.items() if p.ndim == 2 and n.startswith("blocks.")}
    others = [p for name, p in trained.items() if name not in hidden]
    return [
        {"params": list(hidden.values()), "name": "hidden"},
        {"params": others, "name": "others"},
    ]


def _warm(steps: int, step: int) -> float:
    return min(1.0, (step + 1) / max(1, round(WARMUP * steps)))


def _cosine(steps: int, step: int, warm: int = 0) -> float:
    return (1 + math.cos(math.pi * max(0, step - warm) / (steps - warm))) / 2


def _warm_cosine(steps: int, step: int) -> float:
    return _warm(steps, step) * _cosine(steps, step, round(WARMUP * steps))


def _wsd(steps: int, step: int) -> float:
    return _warm(steps, step) * min(1.0, (steps - step) / max(1, round(DECAY * steps)))


# The share of the peak rate at a step (from 0) of a run; None for torch's OneCycleLR.
SCHEDULES: dict[str, Callable[[int, int], float] | None] = {
    "one-cycle": None,
    "warmup-cosine": _warm_cosine,
    "cosine": _cosine,
    "wsd": _wsd,
    "warmup-constant": _warm,
}


def make_schedule(optimizer: Optimizer, problem: Problem, lr: float) -> LRScheduler:
    """Return the problem's schedule with its peak at `lr`; momentum stays as it is.

    Step it after each optimizer step.
    """
    share = SCHEDULES[problem.schedule]
    if share is None:
        return OneCycleLR(optimizer, lr, total_steps=problem.steps, cycle_momentum=False)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return LambdaLR(optimizer, partial(share, problem.steps))


def shares(problem: Problem) -> list[float]:
    """Return the schedule as shares of its peak, one a step."""
    spare = SGD([torch.zeros(1)], lr=1.0)
    schedule, found = make_schedule(spare, problem, 1.0), []
    for _ in range(problem.steps):
        found.append(float(spare.param_groups[0]["lr"]))
        spare.step()
        schedule.step()
    return found


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
    """Return the problem's task with its data, at the problem's batch size."""
    task = get_task(problem.task)
    task.batch_size = problem.batch_size or task.batch_size
    return task

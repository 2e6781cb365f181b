"""What the peers share: how a run starts, how it is trained, how a package is asked."""

import contextlib
import importlib
import io
import time
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...tasks import Batch, Task
from .. import problems
from ..problems import WEIGHT_DECAY, Outcome, Problem

READINGS = 50  # of the learning rate, over a run
WARMUP = 20  # the part of a run, one in 20, that schedule-free methods warm up over


def is_read(step: int, steps: int) -> bool:
    """Return whether the learning rate is read at a step (from 1): about 50 times a run."""
    return step % max(1, steps // READINGS) == 0 or step == steps


def begin(problem: Problem, task: Task, lr: float, seed: int) -> tuple[nn.Module, Optimizer]:
    """Return the model, and the problem's own optimizer at one rate."""
    model = problems.new_model(task, seed)
    groups = problems.parameter_groups(problem, task, model)
    return model, problems.new_optimizer(problem, groups, lr)


def groups_for(problem: Problem, task: Task, model: nn.Module) -> tuple[list[dict], float]:
    """Return groups and weight decay for a package's optimizer, as the problem's own has."""
    groups = problems.parameter_groups(problem, task, model)
    if problem.optimizer == "sgd":
        return [{**group, "weight_decay": 0.0} for group in groups], 0.0
    return groups, WEIGHT_DECAY


def with_linear_steps(problem: Problem) -> Problem:
    """Return the problem with AdamW for Schedule-Free, whose step is not linear in its rate."""
    if problem.optimizer == "schedule-free":
        return replace(problem, optimizer="adamw")
    return problem


def package(name: str) -> ModuleType:
    """Return a peer's package.

    Raises:
        ImportError: naming the extra that has it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this method needs the package `{name}`: "
            f'pip install --editable "benchmarks[peers]"'
        ) from error


@contextlib.contextmanager
def silence():
    """Keep what packages print about themselves from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def packaged(name: str, kind: str, groups: list[dict], **settings: Any) -> Any:
    """Return a package's optimizer."""
    with silence():
        return getattr(package(name), kind)(groups, **settings)


class ScaledSchedule:
    """A schedule whose rates are multiplied by a factor that may change at any time."""

    def __init__(self, optimizer: Optimizer, schedule: LRScheduler) -> None:
        """Take the optimizer's rates as they are for the schedule's."""
        self._groups, self._schedule = optimizer.param_groups, schedule
        self._rates = [group["lr"] for group in self._groups]

    def scale(self, factor: float) -> None:
        """Set each rate to the schedule's times a factor."""
        for group, rate in zip(self._groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def step(self) -> None:
        """Move the schedule on; its rates are in effect until the next `scale`."""
        # Some schedules compute a rate from the last one: that must be their own.
        self.scale(1.0)
        self._schedule.step()
        self._rates = [group["lr"] for group in self._groups]


def set_mode(optimizer: Optimizer, mode: str) -> None:
    """Put the weights of a schedule-free optimizer where it trains, or where it evaluates."""
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()


def train(
    problem: Problem,
    task: Task,
    seed: int,
    model: nn.Module,
    optimizer: Optimizer,
    after: Callable[[float], object] = lambda _: None,
    *,
    step: Callable[[Tensor, Batch], object] | None = None,
    rate: Callable[[dict], float] = lambda group: group["lr"],
    evaluated: nn.Module | None = None,
) -> Outcome:
    """Train one model on the global batches, which is what plain DDP computes.

    Args:
        problem: what is trained, and for how many steps.
        task: the problem's, loaded.
        seed: of the batches.
        model: from `new_model`.
        optimizer: over the model's weights.
        after: called with the loss after each step but the last; schedules step here.
        step: takes the step, given the loss and its batch; None for `optimizer.step()`.
        rate: reads the rate in effect from a group, after a step.
        evaluated: the model whose held-out loss counts; None for `model`.
    """
    started = time.perf_counter()
    steps, lrs = [], []
    set_mode(optimizer, "train")
    for number in range(1, problem.steps + 1):
        batch = problems.global_batch(task, seed, number - 1)
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        if step is None:
            optimizer.step()
        else:
            step(loss, batch)
        if is_read(number, problem.steps):
            rates = [float(rate(group)) for group in optimizer.param_groups]
            steps.append(number)
            lrs.append(sum(rates) / len(rates))
        if number < problem.steps:
            after(float(loss.detach()))
    seconds = time.perf_counter() - started
    set_mode(optimizer, "eval")
    held_out = problems.held_out_loss(task, evaluated or model)
    return Outcome(held_out, steps, lrs, seconds)

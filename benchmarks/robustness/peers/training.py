"""What the peers share: how a run starts, how its rates are scaled, how a package is asked."""

import contextlib
import importlib
import io
from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...tasks import Task
from .. import problems
from ..problems import WEIGHT_DECAY, Problem

WARMUP = 20  # the part of a run, one in 20, that schedule-free methods warm up over


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
    """Return the problem with AdamW and warm-up and cosine in place of Schedule-Free.

    That is for methods which would move the weights from under Schedule-Free's average, or
    which need a step that is linear in its rate.
    """
    if problem.optimizer != "schedule-free":
        return problem
    return replace(problem, optimizer="adamw", schedule="warmup-cosine")


def package(name: str) -> ModuleType:
    """Return a peer's package.

    Raises:
        ImportError: naming the extra that has it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this method needs the package `{name}`: pip install --editable benchmarks"
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
        # Loading a state gives the optimizer new groups: they are asked for each time.
        self._optimizer, self._schedule = optimizer, schedule
        self._rates = self._read()

    def scale(self, factor: float) -> None:
        """Set each rate to the schedule's times a factor."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def step(self) -> None:
        """Move the schedule on; its rates are in effect until the next `scale`."""
        # Some schedules compute a rate from the last one: that must be their own.
        self.scale(1.0)
        self._schedule.step()
        self._rates = self._read()

    def _read(self) -> list[float]:
        return [group["lr"] for group in self._optimizer.param_groups]


def set_mode(optimizer: Optimizer, mode: str) -> None:
    """Put the weights of a schedule-free optimizer where it trains, or where it evaluates."""
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()

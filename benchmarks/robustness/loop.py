"""The training loop that all methods share, and what is recorded of a run.

The held-out loss is taken about 30 times a run, at the weights that the method would return
there; the time that this takes does not count.
"""

import math
import time
from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer

from ..tasks import Batch, Task
from .problems import (
    Outcome,
    Problem,
    global_batch,
    held_out_loss,
    make_schedule,
    new_model,
    new_optimizer,
    parameter_groups,
)

READINGS = 30
# Seeds of a rerun's batches are far from those of the training stream.
OTHER_BATCHES = 5_000


def reading_steps(steps: int) -> list[int]:
    """Return the steps (from 1) at which a run is read; the last is the end."""
    count = min(READINGS, steps)
    return sorted({round(steps * (i + 1) / count) for i in range(count)})


class Recorder:
    """What is read of a run while it goes on; for loops that are not `train`."""

    def __init__(self, problem: Problem, task: Task, model: nn.Module) -> None:
        """Read the initial weights, and start the clock."""
        self._task, self._due = task, reading_steps(problem.steps)
        self._initial = held_out_loss(task, model)
        self._steps: list[int] = []
        self._rates: list[float] = []
        self._curve: list[tuple[int, float]] = []
        self._started = time.perf_counter()

    def due(self, step: int) -> bool:
        """Return whether the next reading is due once `step` steps (from 1) are taken."""
        return bool(self._due) and step >= self._due[0]

    def read(self, step: int, model: nn.Module, rate: float = math.nan) -> None:
        """Read the held-out loss of a model, and note the rate of the step before."""
        began = time.perf_counter()
        self._due = [due for due in self._due if due > step]
        self._steps.append(step)
        self._rates.append(rate)
        self._curve.append((step, held_out_loss(self._task, model)))
        self._started += time.perf_counter() - began

    def outcome(self, forwards: float = 0.0) -> Outcome:
        """Return how the run went; its last reading is its end."""
        seconds = time.perf_counter() - self._started
        end = self._curve[-1][1]
        about = self._initial, self._curve, forwards
        return Outcome(end, self._steps, self._rates, seconds, *about)


def train(
    problem: Problem,
    task: Task,
    seed: int,
    model: nn.Module,
    optimizer: Optimizer,
    after: Callable[[float], object] = lambda loss: None,
    *,
    step: Callable[[Tensor, Batch], object] | None = None,
    rate: Callable[[dict], float] = lambda group: group["lr"],
    evaluated: nn.Module | None = None,
    forwards: Callable[[], float] = lambda: 0.0,
    data_seed: int | None = None,
) -> Outcome:
    """Train one model on the global batches, which is what plain DDP computes.

    Args:
        problem: what is trained, and for how many steps.
        task: the problem's, loaded.
        seed: of the run; its initial weights are in `model` already.
        model: from `new_model`, trained in place.
        optimizer: over the model's weights. One with the methods `train` and `eval`, as
            Schedule-Free's, is evaluated in its own eval mode.
        after: called with the batch's loss after each step but the last; schedules step here.
        step: takes the step, given the loss and its batch; None for `optimizer.step()`.
        rate: reads the rate in effect from a group, after a step.
        evaluated: the model whose held-out loss counts; None for `model`.
        forwards: gives the forward passes beside training, in global batches, at the end.
        data_seed: of the batches; None for `seed`.
    """
    recorder = Recorder(problem, task, model)
    _set_mode(optimizer, "train")
    for number in range(1, problem.steps + 1):
        batch = global_batch(task, seed if data_seed is None else data_seed, number - 1)
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        if step is None:
            optimizer.step()
        else:
            step(loss, batch)
        if recorder.due(number):
            rates = [float(rate(group)) for group in optimizer.param_groups]
            _set_mode(optimizer, "eval")
            recorder.read(number, evaluated or model, sum(rates) / len(rates))
            _set_mode(optimizer, "train")
        if number < problem.steps:
            after(float(loss.detach()))
    return recorder.outcome(forwards())


def _set_mode(optimizer: Optimizer, mode: str) -> None:
    """Put a schedule-free optimizer's weights where it trains, or where it is evaluated."""
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()


def plain(
    problem: Problem, task: Task, lr: float, seed: int, data_seed: int | None = None
) -> Outcome:
    """Train as plain DDP does: the problem's optimizer and schedule, its peak at `lr`."""
    model = new_model(task, seed)
    optimizer = new_optimizer(problem, parameter_groups(problem, task, model), lr)
    schedule = make_schedule(optimizer, problem, lr)

    def after(loss: float) -> None:
        schedule.step()

    return train(problem, task, seed, model, optimizer, after, data_seed=data_seed)


def rerun(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train as `plain`, from the same weights on other batches: how far that moves the loss."""
    return plain(problem, task, lr, seed, OTHER_BATCHES + seed)

"""The controls: what costs no idea at all, and is seldom beaten.

- plain: what plain DDP does, at the start itself. The sweep that all regrets are measured
  against is made of it.
- calibrated: one fixed rate for all problems of an optimizer. Learning-rate-free methods,
  calibrated as a whole, "still lagged slightly behind a similarly calibrated" fixed setting on
  AlgoPerf (Kasimbeg et al., arXiv 2505.24005).
- budget-sweep: the steps of one run, spent on a sweep of three.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ...tasks import Task
from .. import problems
from ..problems import Outcome, Problem
from .training import begin, train

FACTORS = (0.1, 1.0, 10.0)  # of the start, in the sweep at the budget of one run


def ddp(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train as plain DDP does: the problem's optimizer and schedule with its peak at `lr`."""
    model, optimizer = begin(problem, task, lr, seed)
    schedule = problems.make_schedule(optimizer, problem, lr)
    return train(problem, task, seed, model, optimizer, lambda _: schedule.step())


def calibrated_rates(best: Iterable[tuple[Problem, float]]) -> Mapping[str, float]:
    """Return one rate per optimizer: the geometric mean of its problems' best.

    Args:
        best: each problem with the best peak rate of its sweep, above 0. The problem that is
            to be judged is among them, which favours this control.
    """
    logs: dict[str, list[float]] = {}
    for problem, lr in best:
        logs.setdefault(problem.optimizer, []).append(math.log(lr))
    return {kind: math.exp(math.fsum(found) / len(found)) for kind, found in logs.items()}


def calibrated(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train as plain DDP does at `lr`, which is to be `calibrated_rates` of the optimizer."""
    return ddp(problem, task, lr, seed)


def budget_sweep(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Sweep a tenth of the start, the start and ten times it, each for a third of the steps.

    Each run has the whole schedule. The run of the lowest held-out loss counts, so this control
    knows its own score: an advantage that nobody has in practice. The rates are those of the
    three runs one after the other.
    """
    third = replace(problem, steps=problem.steps // len(FACTORS))
    runs = [ddp(third, task, lr * factor, seed) for factor in FACTORS]
    losses = [run.held_out if math.isfinite(run.held_out) else math.inf for run in runs]
    return Outcome(
        held_out=runs[losses.index(min(losses))].held_out,
        steps=[step + i * third.steps for i, run in enumerate(runs) for step in run.steps],
        lrs=[rate for run in runs for rate in run.lrs],
        seconds=sum(run.seconds for run in runs),
    )

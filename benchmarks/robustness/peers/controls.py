"""The controls: what costs no idea at all, and is seldom beaten.

- calibrated: one fixed rate for all problems of an optimizer. Learning-rate-free methods,
  calibrated as a whole, "still lagged slightly behind a similarly calibrated" fixed setting on
  AlgoPerf (Kasimbeg et al., arXiv 2505.24005).
- budget-sweep: the steps of one run, spent on a sweep of three.
"""

import math
from dataclasses import replace

from ...tasks import Task
from ..loop import plain
from ..problems import Outcome, Problem

FACTORS = (0.1, 1.0, 10.0)  # of the start, in the sweep at the budget of one run


def calibrated(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train as plain DDP does at `lr`.

    The study gives the rate: the geometric mean of the sweeps' best over all problems of the
    optimizer. The problem that is judged is among them, which favours this control.
    """
    return plain(problem, task, lr, seed)


def budget_sweep(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Sweep a tenth of the start, the start and ten times it, each for a third of the steps.

    Each run has the whole schedule. The run of the lowest held-out loss counts, so this control
    knows its own score: an advantage that nobody has in practice. Rates and losses are those of
    the three runs one after the other.
    """
    third = replace(problem, steps=problem.steps // len(FACTORS))
    runs = [plain(third, task, lr * factor, seed) for factor in FACTORS]
    losses = [run.held_out if math.isfinite(run.held_out) else math.inf for run in runs]
    offsets = [i * third.steps for i in range(len(runs))]
    parts = list(zip(offsets, runs, strict=True))
    return replace(
        runs[losses.index(min(losses))],
        steps=[before + step for before, run in parts for step in run.steps],
        lrs=[rate for run in runs for rate in run.lrs],
        curve=[(before + step, loss) for before, run in parts for step, loss in run.curve],
        seconds=sum(run.seconds for run in runs),
    )

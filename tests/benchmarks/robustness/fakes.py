"""Methods that train nothing, and a run folder with made-up numbers.

Plain DDP has a bowl over the logarithm of the rate with its bottom at `BEST`, and
diverges a decade and a half above; ours hardly depends on the rate. Each run begins at a
held-out loss of `INITIAL`, which is where one that diverged is capped.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import cast

from benchmarks.robustness.methods import LABELS
from benchmarks.robustness.problems import PROBLEMS, Method, Outcome, Problem
from benchmarks.robustness.runs import Folder, Runs, Settings, Unit
from benchmarks.robustness.study import plan
from benchmarks.tasks import Task

BEST = 0.1
INITIAL = 2.0
ONE = Problem("one", "none", "sgd", "one-cycle", 40, BEST, "tuning")
TWO = Problem("two", "none", "adamw", "cosine", 60, BEST, "confirmation")


# The fake methods ask nothing of their task.
NO_TASK = cast(Task, None)


def load(problem: Problem) -> Task:
    return NO_TASK


def outcome(problem: Problem, loss: float, lr: float, end: float) -> Outcome:
    """Return a run whose rate goes from `lr` to `end`, then falls."""
    steps = list(range(1, problem.steps + 1))
    parts = [step / problem.steps for step in steps]
    lrs = [lr ** (1 - p) * end**p * (1 - p) + 1e-9 for p in parts]
    curve = [
        (step, INITIAL + (loss - INITIAL) * p) for step, p in zip(steps, parts, strict=True)
    ]
    return Outcome(loss, steps, lrs, 0.01, INITIAL, curve)


def plain(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    away = math.log10(lr / BEST)
    loss = 1 + 0.1 * away**2 + 0.01 * seed if away < 1.45 else math.nan
    return outcome(problem, loss, lr, lr)


def rerun(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    return outcome(problem, 1.005 * plain(problem, task, lr, seed).held_out, lr, lr)


def ours(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    away = math.log10(lr / BEST)
    return outcome(problem, 0.99 + 0.01 * away**2 + 0.01 * seed, lr, BEST)


def level(loss: float) -> Method:
    """Return a method that ends at a loss, the nearer to the best the less."""

    def method(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
        away = abs(math.log10(lr / BEST))
        return outcome(problem, loss + 0.03 * away + 0.02 * seed, lr, lr)

    return method


def methods() -> dict[str, Method]:
    """Return a fake for every name."""
    found = {name: level(1.01 + 0.02 * i) for i, name in enumerate(LABELS)}
    return {**found, "ddp": plain, "rerun": rerun, "hdet": ours, "pbt": level(1e7)}


def settings(*names: str, problems: tuple[Problem, ...] = (ONE,), seeds: int = 2) -> Settings:
    asked = plan([next(iter(PROBLEMS))], list(names), seeds=seeds)
    return replace(asked, problems=list(problems))


def fake_run(path: Path, *names: str, problems: tuple[Problem, ...] = (ONE,)) -> Folder:
    """Write the folder of a finished run, without any process."""
    folder = Folder(path)
    folder.create(settings(*names, problems=problems))
    while do(folder):
        pass
    return folder


def do(folder: Folder) -> int:
    """Do all that is known so far; return how many runs that were."""
    todo = Runs(folder).unfinished()
    for unit in todo:
        assert isinstance(unit, Unit)
        run = methods()[unit.method](unit.problem, NO_TASK, unit.lr, unit.seed)
        folder.append(unit, {"lr": unit.lr, **vars(run)})
    return len(todo)

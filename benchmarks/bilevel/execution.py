"""Do the runs of the bilevel benchmark, one process per core.

Every run is a function of its unit alone and computes in one thread, so any number of
processes gives the same numbers but seconds. The parent writes the results: one file, one
writer. What is judged is where a run stands when its budget is spent or it stops; judging is
no part of its cost, nor of its seconds.
"""

import math
from dataclasses import asdict
from functools import lru_cache
from time import process_time
from typing import Any

import numpy as np
from torch.utils import _pytree as pytree

from hdet.bilevel import (
    NonFiniteError,
    Result,
    Rules,
    Status,
    Step,
    fixed_accuracy,
    maid,
)
from hdet.bilevel.linear import CurvatureError
from hdet.bilevel.result import Callback

from ..core.files import finite
from . import crossover
from .runs.methods import run_method
from .runs.tasks import TASKS, Task
from .units import CERTIFIED, OURS, Unit, condition

# Of a trajectory.
POINTS = 100
# The paper's, where delta0 is eps0.
_PROTOTYPE_STEP, _PROTOTYPE_RELAX = 0.01, 1.25
# The budget ends every run.
_UNLIMITED = 10**9
_ENDED = (Status.BUDGET, Status.MAX_STEPS, Status.GRADIENT_TOLERANCE)


def outcome(unit: Unit) -> dict[str, Any]:
    """Do one run, and return its numbers.

    A run that comes to where the lower level is not finite, or not as convex as it should
    be, has failed; it is judged at the last point that it reached before.
    """
    begun = process_time()
    if unit.experiment == "crossover":
        made = crossover.measure(condition(unit), unit.method)
        return made | {"seconds": round(process_time() - begun, 3)}
    task = load(unit.task, unit.seed)
    begun = process_time()
    result, failure = _run(unit, task)
    seconds = process_time() - begun
    start = _start(unit.task, unit.seed)
    return finite(
        {
            "status": "FAILED" if failure or result is None else result.status.name,
            "stuck": not failure and result is not None and result.status not in _ENDED,
            "failure": failure,
            "judged": start if result is None else _judged(task, result.theta, result.x),
            "start": start,
            **_course(unit, start["loss"], result),
            "seconds": round(seconds, 3),
            "title": task.title,
            "parameters": sum(leaf.numel() for leaf in pytree.tree_leaves(task.theta0)),
        }
    )


@lru_cache(maxsize=2)
def load(task: str, seed: int) -> Task:
    """Return a task.

    Raises:
        MissingDataError: if its data are not there.
    """
    return TASKS[task](seed)


def _run(unit: Unit, task: Task) -> tuple[Result | None, str]:
    """Return where a run came to, and why it failed; None is where it began."""
    last: list[dict[str, Any]] = []

    def keep(_: Step, state: dict[str, Any]) -> None:
        last[:] = [state]

    try:
        return _call(unit, task, callback=keep), ""
    except (NonFiniteError, CurvatureError) as error:
        # A run that has made all its steps already computes nothing. Methods that take values
        # alone have no state.
        return _call(unit, task, state=last[0]) if any(last) else None, str(error)


def _call(
    unit: Unit,
    task: Task,
    *,
    callback: Callback | None = None,
    state: dict[str, Any] | None = None,
) -> Result:
    """Do a unit's run; with a `state`, only return where that is."""
    given: dict[str, Any] = {
        "accuracy": unit.start,
        "budget": unit.budget,
        "max_steps": state["point"]["step"] if state else _UNLIMITED,
        "callback": callback,
        "state": state,
    }
    levels = (task.problem, task.theta0, task.x0)
    if unit.experiment == "prototype":
        return maid(
            *levels,
            residual=unit.start,
            step=_PROTOTYPE_STEP,
            rules=Rules.paper(relax=_PROTOTYPE_RELAX),
            certify=unit.method == "certified",
            **given,
        )
    if unit.method == "fixed-paper":
        rules = Rules.paper(relax=task.relax)
        return fixed_accuracy(*levels, step=task.step, rules=rules, **given)
    certify = unit.method == CERTIFIED
    return run_method(OURS if certify else unit.method, task, certify=certify, **given)


@lru_cache(maxsize=2)
def _start(name: str, seed: int) -> dict[str, float]:
    task = load(name, seed)
    return _judged(task, task.theta0, task.x0)


def _judged(task: Task, theta: Any, x: Any) -> dict[str, float]:
    """Return what a point is worth; NaN where no exact solution can be found."""
    try:
        return task.judged(theta, x)
    except (NonFiniteError, CurvatureError):
        return {"loss": math.nan}


def _course(unit: Unit, first: float, result: Result | None) -> dict[str, Any]:
    """Return how a run went: what it made, what that cost, and its trajectory."""
    points = [(0, first, unit.start)]
    if result is None:
        return {"steps": 0, "failed_searches": 0, "counts": {}, "cost": 0} | _path(points)
    points += [(step.cost, step.value, step.accuracy) for step in result.history]
    return {
        "steps": len(result.history),
        "failed_searches": result.failed_searches,
        "counts": asdict(result.counts),
        "cost": result.counts.cost,
        **_path(points),
    }


def _path(points: list[tuple[int, float, float]]) -> dict[str, Any]:
    """Return cost, g at the inexact solution, and eps, of points of a run."""
    rounded = [
        [cost, float(f"{value:.6g}"), float(f"{accuracy:.4g}")]
        for cost, value, accuracy in thinned(points)
    ]
    return {"trajectory": rounded}


def thinned(points: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """Return at most `POINTS` points, dense where a run begins, the ends among them."""
    if len(points) <= POINTS:
        return points
    half, last = POINTS // 2, len(points) - 1
    places = {*np.linspace(0, last, half), *np.geomspace(1, last, half)}
    return [points[i] for i in sorted({round(place) for place in places})]

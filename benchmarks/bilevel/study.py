"""Which bilevel runs the study makes, what a run measures, and where results are kept.

    comparison  every method on every task from every first accuracy eps0, at equal cost
    prototype   problem A at the paper's setting: MAID as printed, certified and not
    crossover   from which condition number on adaptive accuracy is worth its line search

    <folder>/config.json, environment.json
    <folder>/results.jsonl      one line per run, appended when it is over
    <folder>/plots/*.png, report.html

A run computes in one thread, and is evaluated where it stands when its budget is spent or it
stops; the evaluation is no part of its cost, nor of its seconds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from time import process_time
from typing import Any, ClassVar

import numpy as np
from torch.utils import _pytree as pytree

from hdet.bilevel import CurvatureError, NonFiniteError, Result, Status, Step
from hdet.errors import require

from ..core.files import finite
from ..core.parsing import require_names
from ..core.units import UnitFolder
from . import crossover
from .methods import CERTIFIED, DERIVATIVE_FREE, METHODS, PROTOTYPES
from .tasks import TASKS, Task

COMMAND = "python -m benchmarks bilevel"
# Lower gradients, Hessian-vector and mixed products in all.
BUDGETS = {"quadratic": 10_000, "logistic": 6_000, "tv": 3_000, "foe": 3_000}
STARTS = (1e-1, 1e-3, 1e-5)
PROTOTYPE_TASK, PROTOTYPE_BUDGET = "quadratic", 20_000
EXPERIMENTS = ("comparison", "prototype", "crossover")
# Most points that are kept of a trajectory.
POINTS = 100
_FEW_PARAMETERS = ("quadratic", "tv")
_CONDITION = "condition-"
# The budget ends every run.
_UNLIMITED = 10**9
_ENDED = (Status.BUDGET, Status.MAX_STEPS, Status.GRADIENT_TOLERANCE)
# What a run's line has; null stands for what was not finite.
_JUDGED = dict[str, float | None]
_VALUES = {
    "status": str,
    "stuck": bool,
    "failure": str,
    "judged": _JUDGED,
    "start": _JUDGED,
    "steps": int,
    "failed_searches": int,
    "cost": int,
    "trajectory": list[list[float | None]],
    "seconds": float,
    "title": str,
    "parameters": int,
}
_CROSSOVER = {"outer": int, "descent": int, "cost": int, "reached": bool, "seconds": float}


def known_methods() -> list[str]:
    """Return the names of the methods, in the order of tables; DFO-LS if it is installed."""
    return [name for name in METHODS if name != "dfo-ls" or find_spec("dfols")]


@dataclass(frozen=True)
class Plan:
    """What was asked for; the content of `config.json`.

    Attributes:
        experiments: names, from `EXPERIMENTS`.
        tasks: names, from `BUDGETS`.
        seeds: runs of every method from every start, with seeds from 0.
        scale: factor of all budgets.
        methods: those compared; one that is added later does not change a record.
    """

    experiments: list[str]
    tasks: list[str] = field(default_factory=lambda: list(BUDGETS))
    seeds: int = 3
    scale: float = 1.0
    methods: list[str] = field(default_factory=known_methods)

    def __post_init__(self) -> None:
        require_names("Plan", "experiments", self.experiments, EXPERIMENTS)
        require_names("Plan", "tasks", self.tasks, BUDGETS)
        require_names("Plan", "methods", self.methods, METHODS)
        require(self.seeds >= 1, "Plan", "seeds", self.seeds, "must be at least 1", "try 3")
        good, rule = 0 < self.scale < math.inf, "must be finite and above 0"
        require(good, "Plan", "scale", self.scale, rule, "try 0.1")

    def budget(self, task: str) -> int:
        """Return the cost of a run of the comparison."""
        return max(1, round(BUDGETS[task] * self.scale))


@dataclass(frozen=True)
class Unit:
    """One run.

    Attributes:
        experiment: one of `EXPERIMENTS`.
        task: name of the task, or the condition number.
        method: one of `METHODS`, of `PROTOTYPES`, or of `crossover.METHODS`.
        start: eps0.
        seed: of the task.
        budget: largest cost.
    """

    experiment: str
    task: str
    method: str
    start: float
    seed: int
    budget: int

    @property
    def key(self) -> str:
        """What tells the unit from all others."""
        return f"{self.experiment}/{self.task}/{self.method}/{self.start:g}/{self.seed}"

    @property
    def condition(self) -> int:
        """The condition number of a unit of the crossover."""
        return int(self.task.removeprefix(_CONDITION))

    def __str__(self) -> str:
        return self.key


def units(plan: Plan) -> list[Unit]:
    """Return all runs of a plan."""
    makers = {"comparison": _comparison, "prototype": _prototype, "crossover": _crossover}
    return [unit for name in plan.experiments for unit in makers[name](plan)]


def methods_of(plan: Plan, task: str) -> list[str]:
    """Return the methods that are compared on a task."""
    left_out = set() if task in _FEW_PARAMETERS else set(DERIVATIVE_FREE)
    # All constants are known of no other.
    left_out |= set() if task == "quadratic" else {CERTIFIED}
    return [name for name in plan.methods if name not in left_out]


def _comparison(plan: Plan) -> Iterator[Unit]:
    for seed in range(plan.seeds):
        for task in plan.tasks:
            for method in methods_of(plan, task):
                for start in STARTS:
                    yield Unit("comparison", task, method, start, seed, plan.budget(task))


def _prototype(plan: Plan) -> Iterator[Unit]:
    budget = max(1, round(PROTOTYPE_BUDGET * plan.scale))
    for seed in range(plan.seeds):
        for method in PROTOTYPES:
            for start in STARTS:
                yield Unit("prototype", PROTOTYPE_TASK, method, start, seed, budget)


def _crossover(_: Plan) -> Iterator[Unit]:
    # These have a seed, a start and an end of their own.
    for condition in crossover.CONDITIONS:
        for method in crossover.METHODS:
            yield Unit("crossover", f"{_CONDITION}{condition}", method, 0.1, 0, 0)


class Folder(UnitFolder[Plan]):
    """One run of the study on disk."""

    plan_type, command = Plan, COMMAND
    values: ClassVar = {"comparison": _VALUES, "prototype": _VALUES, "crossover": _CROSSOVER}


def unfinished(folder: Folder) -> Sequence[Unit]:
    """Return the runs without a result."""
    done = folder.results()
    return [unit for unit in units(folder.plan()) if unit.key not in done]


def outcome(unit: Unit) -> dict[str, Any]:
    """Do one run, and return its numbers, which depend on the unit alone but for seconds.

    A run that comes to where the lower level is not finite, or not as convex as it should
    be, has failed; it is evaluated at the last point that it reached before.
    """
    begun = process_time()
    if unit.experiment == "crossover":
        made = crossover.measure(unit.condition, unit.method)
        return made | {"seconds": round(process_time() - begun, 3)}
    task = load(unit.task, unit.seed)
    begun = process_time()
    result, failure = _run(unit, task)
    seconds = process_time() - begun
    start = _evaluated_start(unit.task, unit.seed)
    return finite(
        {
            "status": "FAILED" if failure or result is None else result.status.name,
            "stuck": not failure and result is not None and result.status not in _ENDED,
            "failure": failure,
            "judged": start if result is None else _evaluated(task, result.theta, result.x),
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
    methods = PROTOTYPES if unit.experiment == "prototype" else METHODS
    call, given = methods[unit.method].call, {"accuracy": unit.start, "budget": unit.budget}
    last: dict[str, Any] = {}

    def keep(_: Step, state: dict[str, Any]) -> None:
        nonlocal last
        last = state

    try:
        return call(task, **given, max_steps=_UNLIMITED, callback=keep), ""
    except (NonFiniteError, CurvatureError) as error:
        if not last:
            # No step was made, or the method takes values alone and has no state.
            return None, str(error)
        # A run that has made all its steps already computes nothing.
        return call(task, **given, max_steps=last["point"]["step"], state=last), str(error)


@lru_cache(maxsize=2)
def _evaluated_start(name: str, seed: int) -> dict[str, float]:
    task = load(name, seed)
    return _evaluated(task, task.theta0, task.x0)


def _evaluated(task: Task, theta: Any, x: Any) -> dict[str, float]:
    """Return what a point is worth; NaN where no exact solution can be found."""
    try:
        return task.evaluate(theta, x)
    except (NonFiniteError, CurvatureError):
        return {"loss": math.nan}


def _course(unit: Unit, first: float, result: Result | None) -> dict[str, Any]:
    """Return how a run went: its steps, what they cost, and its trajectory."""
    points = [(0, first, unit.start)]
    if result is None:
        course = {"steps": 0, "failed_searches": 0, "counts": {}, "cost": 0}
    else:
        points += [(step.cost, step.value, step.accuracy) for step in result.history]
        course = {
            "steps": len(result.history),
            "failed_searches": result.failed_searches,
            "counts": asdict(result.counts),
            "cost": result.counts.cost,
        }
    # Cost, g at the inexact solution, and eps.
    course["trajectory"] = [
        [cost, float(f"{value:.6g}"), float(f"{accuracy:.4g}")]
        for cost, value, accuracy in thinned(points)
    ]
    return course


def thinned(points: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """Return at most `POINTS` points, dense where a run begins, the ends among them."""
    if len(points) <= POINTS:
        return points
    half, last = POINTS // 2, len(points) - 1
    indices = {*np.linspace(0, last, half), *np.geomspace(1, last, half)}
    return [points[i] for i in sorted({round(index) for index in indices})]

"""Which bilevel runs the benchmark makes, and where their results are kept.

comparison  every method on every task from every first accuracy eps0, at equal cost
prototype   problem A at the paper's setting, MAID as printed, certified and not
crossover   from which condition number on adaptive accuracy is worth its line search

<folder>/config.json, environment.json
<folder>/results.jsonl      one line per run, appended when it is over
<folder>/summary.json, plots/*.png, report.html
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import ClassVar

from hdet.bilevel import Rules
from hdet.errors import require

from ..core.parsing import require_names
from ..core.units import UnitFolder
from . import crossover
from .runs.methods import METHODS

OURS = "maid"
CERTIFIED = "maid-certified"
MONOTONE = "maid-monotone"
FIXED = ("fixed", "fixed-paper")
HOAG = ("hoag-exponential", "hoag-quadratic", "hoag-cubic")
# They take one solve of the lower level per hyperparameter, or more.
DERIVATIVE_FREE = ("dfo-ls", "finite-differences")
LABELS = {
    OURS: "MAID",
    CERTIFIED: "certified MAID",
    MONOTONE: "monotone MAID",
    "maid-paper": "MAID as printed",
    "fixed": "fixed accuracy",
    "fixed-paper": "fixed accuracy as printed",
    "hoag-exponential": "HOAG exponential",
    "hoag-quadratic": "HOAG quadratic",
    "hoag-cubic": "HOAG cubic",
    "dfo-ls": "DFO-LS",
    "finite-differences": "finite differences",
}
EXPLAINED = {
    OURS: "whose accuracy follows its steps, which begin at Barzilai-Borwein lengths",
    CERTIFIED: "which tests the bound on its hypergradient's error as well",
    MONOTONE: "which must go down at every step",
    "maid-paper": "the paper's algorithm",
    "fixed": "MAID's line search and steps at one accuracy, which ends where no step passes",
    "fixed-paper": "the same with the steps of the paper",
    "hoag-exponential": "whose accuracy falls by a tenth with every step",
    "hoag-quadratic": "as 1/k^2",
    "hoag-cubic": "as 1/k^3",
    "dfo-ls": "which takes values alone, of every residual where the loss is a sum of squares",
    "finite-differences": "in place of the hypergradient",
}
RIVALS = (*FIXED, *HOAG, *DERIVATIVE_FREE)
# Lower gradients, Hessian-vector and mixed products in all.
BUDGETS = {"quadratic": 10_000, "logistic": 6_000, "tv": 3_000, "foe": 3_000}
FEW_PARAMETERS = ("quadratic", "tv")
STARTS = (1e-1, 1e-3, 1e-5)
PROTOTYPES = {"certified": "certified MAID as printed", "plain": "MAID as printed"}
PROTOTYPE_TASK, PROTOTYPE_BUDGET = "quadratic", 20_000
EXPERIMENTS = ("comparison", "prototype", "crossover")
_CONDITION = "condition-"
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
# Seeds 0 and up are for the record.
FIRST_SEED = 0


def known_methods() -> list[str]:
    """Return the methods that there are, in the order of tables; DFO-LS if it is installed."""
    there = {*METHODS, CERTIFIED, "fixed-paper"}
    if find_spec("dfols") is None:
        there.discard("dfo-ls")
    if Rules().memory == 1:
        # It is MAID itself.
        there.discard(MONOTONE)
    return [name for name in LABELS if name in there]


@dataclass(frozen=True)
class Plan:
    """What was asked for; the content of `config.json`.

    Attributes:
        experiments: names, from `EXPERIMENTS`.
        tasks: names, from `BUDGETS`.
        seeds: of every method from every start.
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
        require_names("Plan", "methods", self.methods, LABELS)
        require(self.seeds >= 1, "Plan", "seeds", self.seeds, "must be at least 1", "try 3")
        good, rule = 0 < self.scale < math.inf, "must be finite and above 0"
        require(good, "Plan", "scale", self.scale, rule, "try 0.1")

    def budget(self, task: str) -> int:
        """Return the cost of a run of the comparison."""
        return _scaled(BUDGETS[task], self.scale)


@dataclass(frozen=True)
class Unit:
    """One run.

    Attributes:
        experiment: one of `EXPERIMENTS`.
        task: name of the task, or the condition number.
        method: one of `LABELS`, of `PROTOTYPES`, or of `crossover.METHODS`.
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

    def __str__(self) -> str:
        return self.key


def units(plan: Plan) -> list[Unit]:
    """Return all runs of a plan."""
    makers = {"comparison": _comparison, "prototype": _prototype, "crossover": _crossover}
    return [unit for name in plan.experiments for unit in makers[name](plan)]


def methods_of(plan: Plan, task: str) -> list[str]:
    """Return the methods that are compared on a task."""
    left_out: set[str] = set() if task in FEW_PARAMETERS else set(DERIVATIVE_FREE)
    # All constants are known of no other.
    left_out |= set() if task == "quadratic" else {CERTIFIED}
    return [name for name in plan.methods if name not in left_out]


def _comparison(plan: Plan) -> Iterator[Unit]:
    for seed in range(FIRST_SEED, FIRST_SEED + plan.seeds):
        for task in plan.tasks:
            for method in methods_of(plan, task):
                for start in STARTS:
                    yield Unit("comparison", task, method, start, seed, plan.budget(task))


def _prototype(plan: Plan) -> Iterator[Unit]:
    budget = _scaled(PROTOTYPE_BUDGET, plan.scale)
    for seed in range(FIRST_SEED, FIRST_SEED + plan.seeds):
        for method in PROTOTYPES:
            for start in STARTS:
                yield Unit("prototype", PROTOTYPE_TASK, method, start, seed, budget)


def _crossover(_: Plan) -> Iterator[Unit]:
    # These have a seed, a start and an end of their own.
    for condition in crossover.CONDITIONS:
        for method in crossover.METHODS:
            yield Unit("crossover", f"{_CONDITION}{condition}", method, 0.1, 0, 0)


def condition(unit: Unit) -> int:
    """Return the condition number of a unit of the crossover."""
    return int(unit.task.removeprefix(_CONDITION))


def _scaled(budget: int, scale: float) -> int:
    return max(1, round(budget * scale))


class Folder(UnitFolder[Plan]):
    """One run of the benchmark on disk."""

    plan_type, command = Plan, "python -m benchmarks bilevel"
    values: ClassVar = {"comparison": _VALUES, "prototype": _VALUES, "crossover": _CROSSOVER}


def unfinished(folder: Folder) -> Sequence[Unit]:
    """Return the runs without a result."""
    done = folder.results()
    return [unit for unit in units(folder.plan()) if unit.key not in done]

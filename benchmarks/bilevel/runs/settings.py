"""What a run of `hdet bilevel` is, and its options: the same settings give the same run.

Errors of the library's functions name arguments; before a user of the command reads them, they
are put in terms of options.
"""

import re
from dataclasses import dataclass
from importlib.util import find_spec

from hdet.bilevel.descent import Options
from hdet.bilevel.solvers import SOLVERS
from hdet.errors import require

from ...core import commands as run_folders
from ...core.commands import option
from ...core.failures import MissingDataError
from .methods import CERTIFIED, DERIVATIVE_FREE, METHODS
from .tasks import TASKS, Task

# Enough to see where it goes; seconds to a minute on one core.
BUDGETS = {"quadratic": 2000, "logistic": 5000, "tv": 1000, "foe": 8000}


@dataclass(frozen=True)
class Settings:
    """One run; arguments as `hdet.bilevel.maid` where not said.

    Attributes:
        task: one of `benchmarks.bilevel.runs.tasks.TASKS`.
        method: one of `benchmarks.bilevel.runs.methods.METHODS`.
        accuracy: eps0; None is the method's own.
        step: alpha0; None is the task's, or the method's own.
        budget: largest cost.
        max_steps: outer steps in all.
        tolerance: |z| at which to stop.
        solver: of the lower level, by its name.
        certify: whether MAID tests its error bound; None where constants are known.
        seed: of the task's data, noise and start.
    """

    task: str
    method: str = "maid"
    accuracy: float | None = None
    step: float | None = None
    budget: int = 1000
    max_steps: int = 1000
    tolerance: float = 0.0
    solver: str = "newton-cg"
    certify: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("task", TASKS), ("method", METHODS), ("solver", SOLVERS)):
            value, words = getattr(self, name), f"write one of {', '.join(known)}"
            require(value in known, "Settings", name, value, "is not known", words)
        Options(
            accuracy=self.accuracy,
            residual=None,
            step=self.step,
            max_steps=self.max_steps,
            budget=self.budget,
            tolerance=self.tolerance,
            certify=False,
            solver=self.solver,
            max_iterations=1,
            callback=None,
            state=None,
        ).check("Settings")
        good = not self.certify or self.method in CERTIFIED
        rule = f"has no meaning for --method {self.method}, which tests no bound"
        words = f"leave it out, or take {', '.join(CERTIFIED)}"
        require(good, "Settings", "certify", self.certify, rule, words)
        for name, unused in (("step", None), ("tolerance", 0.0)):
            value = getattr(self, name)
            good = value == unused or self.method not in DERIVATIVE_FREE
            rule = f"has no meaning for --method {self.method}, which has no hypergradient"
            require(good, "Settings", name, value, rule, "leave it out")


OPTIONS = tuple(name for name in Settings.__dataclass_fields__ if name != "task")


def load(settings: Settings) -> Task:
    """Return the task, or raise what would end the run at its start.

    Raises:
        ValueError: if `certify` asks for what the task does not know.
        MissingDataError: if the task's data, or the method's package, are not there.
    """
    if settings.method == "dfo-ls" and find_spec("dfols") is None:
        raise MissingDataError("--method dfo-ls needs its package: pip install hdet[peers].")
    task = TASKS[settings.task](settings.seed)
    good = not settings.certify or task.problem.certified
    rule = f"needs constants that are not known of {settings.task}"
    words = "leave it out, or take the task quadratic"
    require(good, "Settings", "certify", settings.certify, rule, words)
    return task


def in_options(message: str) -> str:
    """Return an error of `Settings` or `load` in terms of the options."""
    said = run_folders.in_options(message, lambda _, argument: argument)
    # A flag has no value, and the task no dashes.
    return said.replace("--certify True", "--certify").replace("--task ", "TASK ", 1)


def remedy_of(message: str) -> tuple[str, str]:
    """Return a result's message as the reason to have stopped and the remedy in options.

    Args:
        message: "Stopped because <reason>; <remedy>."
    """
    reason, _, remedy = message.rstrip(".").removeprefix("Stopped because ").partition("; ")
    for words, here in _NOT_HERE.items():
        remedy = remedy.replace(words, here)
    return reason, re.sub(r"`(\w+)`", lambda found: option(found[1]), remedy)


# What the command does otherwise than the functions, or has no option for.
_NOT_HERE = {
    ", and pass `state`, to go on": " with --resume, to go on",
    ", or raise `refinements`": "",
    "raise `max_iterations`, or take": "take",
}

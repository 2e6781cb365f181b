"""The outer methods that the command line and the benchmark know, by name.

All take a task and the same arguments and return a `Result`. A new one joins by its label in
`METHODS` and its call in `_CALLS`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from hdet.bilevel import (
    Result,
    Rules,
    dfo_ls,
    finite_differences,
    fixed_accuracy,
    hoag,
    maid,
)
from hdet.bilevel.result import Callback
from hdet.errors import require

from .tasks import Task

# How tables and pictures call them.
METHODS: dict[str, str] = {
    "maid": "MAID",
    "maid-monotone": "MAID, down at every step",
    "maid-paper": "MAID as printed",
    "fixed": "fixed accuracy",
    "hoag-exponential": "HOAG, exponential",
    "hoag-quadratic": "HOAG, quadratic",
    "hoag-cubic": "HOAG, cubic",
    "dfo-ls": "DFO-LS",
    "finite-differences": "finite differences",
}
# Those that take values of f alone: for few parameters, and they go on from no state.
DERIVATIVE_FREE = ("dfo-ls", "finite-differences")
# eps of methods that have no rule of their own for it.
_VALUES_ACCURACY = 1e-3
# Those that can test the bound on a hypergradient's error.
CERTIFIED = ("maid", "maid-monotone", "maid-paper")


def run_method(
    name: str,
    task: Task,
    *,
    accuracy: float | None = None,
    step: float | None = None,
    budget: int | None = None,
    max_steps: int = 100,
    tolerance: float = 0.0,
    solver: str = "newton-cg",
    certify: bool | None = False,
    callback: Callback | None = None,
    state: dict[str, Any] | None = None,
) -> Result:
    """Run a method on a task from the task's start; arguments as `hdet.bilevel.maid`.

    Args:
        name: one of `METHODS`.
        task: the problem.
        accuracy: eps0; None is the method's own, 1e-3 for those that take values alone.
        step: alpha0; None is the task's, and if it has none the method's own. Methods that
            take values alone have none, no tolerance and no state.
        budget: largest cost.
        max_steps: outer steps in all.
        tolerance: |z| at which to stop.
        solver: of the lower level.
        certify: whether MAID tests its bound on the hypergradient's error; None where the
            task's constants are known. Other methods have no such test.
        callback: called after every outer step.
        state: of an earlier result or callback.

    Raises:
        ValueError: if an argument is out of range.
    """
    words = f"write one of {', '.join(METHODS)}"
    require(name in METHODS, "run_method", "name", name, "is not known", words)
    good = not certify or name in CERTIFIED
    rule = f"has no meaning for method {name!r}, which tests no bound"
    words = f"leave it out, or take {', '.join(CERTIFIED)}"
    require(good, "run_method", "certify", certify, rule, words)
    if name in DERIVATIVE_FREE:
        accuracy = _VALUES_ACCURACY if accuracy is None else accuracy
        given: dict[str, Any] = {"accuracy": accuracy, "budget": budget, "solver": solver}
        return _CALLS[name](task, max_steps=max_steps, callback=callback, **given)
    more = {"certify": certify} if name in CERTIFIED else {}
    return _CALLS[name](
        task,
        accuracy=accuracy,
        step=task.step if step is None else step,
        budget=budget,
        max_steps=max_steps,
        tolerance=tolerance,
        solver=solver,
        callback=callback,
        state=state,
        **more,
    )


def _maid(rules: Callable[[Task], Rules], task: Task, **given: Any) -> Result:
    return maid(task.problem, task.theta0, task.x0, rules=rules(task), **given)


def _fixed(task: Task, **given: Any) -> Result:
    return fixed_accuracy(task.problem, task.theta0, task.x0, **given)


def _hoag(schedule: str, task: Task, **given: Any) -> Result:
    return hoag(task.problem, task.theta0, task.x0, schedule=schedule, **given)


def _dfo_ls(task: Task, **given: Any) -> Result:
    return dfo_ls(task.problem, task.theta0, task.x0, residuals=task.residuals, **given)


def _finite_differences(task: Task, **given: Any) -> Result:
    return finite_differences(task.problem, task.theta0, task.x0, **given)


_CALLS: dict[str, Callable[..., Result]] = {
    "maid": partial(_maid, lambda task: Rules()),
    "maid-monotone": partial(_maid, lambda task: Rules(memory=1)),
    "maid-paper": partial(_maid, lambda task: Rules.paper(relax=task.relax)),
    "fixed": _fixed,
    "hoag-exponential": partial(_hoag, "exponential"),
    "hoag-quadratic": partial(_hoag, "quadratic"),
    "hoag-cubic": partial(_hoag, "cubic"),
    "dfo-ls": _dfo_ls,
    "finite-differences": _finite_differences,
}

"""The outer methods that the study compares, by name; each takes a task and gives a `Result`.

A method joins by one entry in `METHODS`: its label in tables and pictures, and its call. All
start at the task's own point and with the task's first step, and differ in how they choose
accuracies and steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from hdet.bilevel import (
    Result,
    Rules,
    dfo_ls,
    finite_differences,
    fixed_accuracy,
    hoag,
    maid,
)

from .tasks import Task


class Method(NamedTuple):
    """A method.

    Attributes:
        label: its name in tables and pictures.
        call: (task, *, accuracy, budget, max_steps, callback, state) to its result.
    """

    label: str
    call: Callable[..., Result]


_OWN = lambda task: Rules()
_MONOTONE = lambda task: Rules(memory=1)
_PRINTED = lambda task: Rules.paper(relax=task.relax)


def _maid(
    rules: Callable[[Task], Rules], task: Task, *, certify: bool = False, **given: Any
) -> Result:
    given = {"step": task.step, "rules": rules(task), "certify": certify, **given}
    return maid(task.problem, task.theta0, task.x0, **given)


def _fixed(rules: Callable[[Task], Rules], task: Task, **given: Any) -> Result:
    given = {"step": task.step, "rules": rules(task), **given}
    return fixed_accuracy(task.problem, task.theta0, task.x0, **given)


def _hoag(schedule: str, task: Task, **given: Any) -> Result:
    given = {"step": task.step, "schedule": schedule, **given}
    return hoag(task.problem, task.theta0, task.x0, **given)


def _dfo_ls(task: Task, state: None = None, **given: Any) -> Result:
    return dfo_ls(task.problem, task.theta0, task.x0, residuals=task.residuals, **given)


def _finite_differences(task: Task, state: None = None, **given: Any) -> Result:
    return finite_differences(task.problem, task.theta0, task.x0, **given)


def _prototype(certify: bool, task: Task, *, accuracy: float, **given: Any) -> Result:
    """The paper's setting: delta0 = eps0, with the task's own first step and nu-bar."""
    given = {"accuracy": accuracy, "residual": accuracy, "certify": certify, **given}
    return _maid(_PRINTED, task, **given)


OURS, CERTIFIED = "maid", "maid-certified"
METHODS = {
    OURS: Method("MAID", partial(_maid, _OWN)),
    CERTIFIED: Method("certified MAID", partial(_maid, _OWN, certify=True)),
    "maid-monotone": Method("monotone MAID", partial(_maid, _MONOTONE)),
    "maid-paper": Method("MAID as printed", partial(_maid, _PRINTED)),
    "fixed": Method("fixed accuracy", partial(_fixed, _OWN)),
    "fixed-paper": Method("fixed accuracy as printed", partial(_fixed, _PRINTED)),
    "hoag-exponential": Method("HOAG exponential", partial(_hoag, "exponential")),
    "hoag-quadratic": Method("HOAG quadratic", partial(_hoag, "quadratic")),
    "hoag-cubic": Method("HOAG cubic", partial(_hoag, "cubic")),
    "dfo-ls": Method("DFO-LS", _dfo_ls),
    "finite-differences": Method("finite differences", _finite_differences),
}
FIXED = ("fixed", "fixed-paper")
# They take values of f alone: one lower-level solve per hyperparameter, or more, and no state.
DERIVATIVE_FREE = ("dfo-ls", "finite-differences")
BASELINES = (*FIXED, "hoag-exponential", "hoag-quadratic", "hoag-cubic", *DERIVATIVE_FREE)
PROTOTYPES = {
    "certified": Method("certified MAID as printed", partial(_prototype, True)),
    "plain": Method("MAID as printed", partial(_prototype, False)),
}

"""An outer method as `init`, `step` and `terminate` over an immutable state, and its loop.

A step that the budget cuts short leaves no trace: the run is still where the step began.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import require, require_number, require_whole
from .hypergradient import Estimate, Evaluator
from .modes import plain
from .oracle import BudgetSpentError, norms
from .result import Callback, Result, Status
from .resuming import State, parsed, written

# Of the first lower-level gradient: a first accuracy that does not depend on units.
_FIRST_ACCURACY = 0.02


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """An outer method; arguments as `maid`.

    `first_accuracy` is eps0 if the user gave none, as a part of |x| at theta0, for methods that
    cannot mend a bad one. None: a part of the first lower-level gradient.
    """

    max_steps: int
    tolerance: float
    certify: bool = False
    first_accuracy: float | None = None

    def init(self, f: Evaluator, state: State) -> State:
        """Return a state with an accuracy; finding one counts like all else."""
        if state.accuracy:
            return state
        mu = f.oracle.mu(state.theta)
        sizes = norms(f.oracle.lower(state.x, state.theta)[1]) / mu
        first = _FIRST_ACCURACY * float(sizes.max())
        if first and self.first_accuracy is not None:
            # mu may be far below h's curvature, and the gradient then says nothing about the
            # size of x; a rough solution does. The run starts from it, so nothing is lost.
            x = f.solve(state.theta, state.x, first, mu).x
            size = float(torch.maximum(norms(x), norms(x - state.x)).max())
            return replace(state, x=x, accuracy=self.first_accuracy * size)
        # A start that is already a solution has no scale but x's own.
        floor = torch.finfo(f.oracle.dtype).eps ** 0.5
        return replace(state, accuracy=first or floor * max(1.0, float(state.x.norm())))

    @abstractmethod
    def step(self, f: Evaluator, state: State) -> State:
        """Return the state after one outer step, or one whose `status` says why to stop."""

    def terminate(self, state: State) -> Status | None:
        """Return why to stop before the next step, or None."""
        return state.status or (Status.MAX_STEPS if state.step >= self.max_steps else None)

    def at_rest(self, found: Estimate) -> bool:
        """Return whether z is within the tolerance, and certain to be if omega is tested."""
        certain = not self.certify or found.omega <= self.tolerance
        flat = not bool(found.upper_grad_norm.any())
        return found.norm <= self.tolerance and (certain or flat)


def minimise(
    f: Evaluator,
    method: Method,
    theta0: Any,
    x0: Any,
    first: tuple[float | None, float | None, float | None],
    callback: Callback | None,
    state: dict[str, Any] | None,
) -> Result:
    """Run a method from eps0, delta0 and alpha0, as far as they are given; as `maid`."""
    accuracy, residual, step = first
    for name, value in (("accuracy", accuracy), ("residual", residual), ("step", step)):
        if value is not None:
            require_number(f.call, name, value, "try 0.01", above=0)
    require_whole(f.call, "max_steps", method.max_steps, "try 100", low=1)
    require_number(f.call, "tolerance", method.tolerance, "0 never stops the run", low=0)
    require_callback(f.call, callback)
    theta, x = f.oracle.flat_theta(theta0), f.oracle.flat_x(x0)
    if state is None:
        # x0 is not a solution, and g may be infinite or NaN there.
        value = float(f.oracle.upper(x)[0].mean())
        value = value if math.isfinite(value) else math.inf
        at = State(theta, x, value, accuracy or 0.0, residual, step)
    else:
        at, f.oracle.counts, constants = parsed(f.call, state, theta, x)
        f.constants.load_state_dict(constants, theta)
    saved = _saved(f, at)
    try:
        at = method.init(f, at)
        saved = _saved(f, at)
        while (status := method.terminate(at)) is None:
            at = method.step(f, at)
            if at.status is None:
                saved = _saved(f, at)
                if callback is not None:
                    callback(at.history[-1], saved)
    except BudgetSpentError:
        status = Status.BUDGET
    return Result(
        f.oracle.theta_tree(plain(at.theta)),
        f.oracle.x_tree(plain(at.x)),
        at.value,
        status,
        status.message,
        list(at.history),
        replace(f.oracle.counts),
        saved,
        at.failed,
    )


def require_callback(call: str, callback: object) -> None:
    """Raise a `ValueError` unless `callback` is None or can be called."""
    good = callback is None or callable(callback)
    rule, remedy = "must be None or a function", "give a function of (step, state)"
    require(good, call, "callback", callback, rule, remedy)


def _saved(f: Evaluator, state: State) -> dict[str, Any]:
    return written(state, f.oracle.counts, f.constants.state_dict())

"""Methods that use values of f alone, at a fixed accuracy, for few hyperparameters.

`dfo_ls` fits a linear model of the residuals to one value more than there are parameters, in a
trust region; `finite_differences` approximates the gradient of f by differences. Both are
methods of other packages with our interface and our counts: an evaluation costs its lower-level
solve, which starts from the last one's solution.

Sources: Cartis, Fiala, Marteau, Roberts, "Improving the flexibility and robustness of
model-based derivative-free optimization solvers", ACM TOMS 45(3), 2019, package DFO-LS; for
bilevel learning by it Ehrhardt, Roberts, JMIV 63, 2021. SciPy's L-BFGS-B for the other.
"""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..errors import require, require_number, require_whole
from .bounds import upper_bound
from .descent import require_callback
from .hypergradient import Evaluator
from .linear import Ending
from .modes import plain
from .oracle import BudgetSpentError, NonFiniteError, norms, require_finite
from .problem import Problem
from .result import SHORT, Callback, Result, Status, Step
from .solvers import Solver

# Stands for a value that is not finite: larger than all others.
_HUGE = 1e100


def dfo_ls(
    problem: Problem,
    theta0: Any,
    x0: Any,
    *,
    residuals: Callable[[Any], Tensor] | None = None,
    accuracy: float,
    budget: int | None = None,
    max_steps: int = 100,
    solver: str | Solver = "newton-cg",
    max_iterations: int = 1000,
    callback: Callback | None = None,
) -> Result:
    """Minimise f by DFO-LS; needs the package of that name. Local.

    Args:
        problem: the two levels; the upper one is a sum of squares, or at least not negative.
        theta0: a pytree of tensors, where to start.
        x0: a pytree of tensors, where the first lower-level solve starts.
        residuals: from x to [k], whose squares add up to f. None takes the root of each
            sample's g, from which the method learns less.
        accuracy: eps of every solve.
        budget: the largest cost.
        max_steps: the largest number of evaluations of f.
        solver: of the lower level.
        max_iterations: the largest number of iterations of that solver.
        callback: called after each evaluation that lowers f; the state is empty, as such a
            run cannot be resumed.

    Returns:
        The result, with the best point; its history has a step for each evaluation that
        lowered f. As there is no hypergradient, `norm`, `step_size`, `residual` and
        `error_bound` are NaN.

    Raises:
        ValueError: if an argument is out of range; if g is negative; if a level does not
            return a scalar, or is not finite where the run starts; if the lower level does not
            depend on a tensor of theta.
        ImportError: if the package is missing.
    """
    call = "dfo_ls"
    f = Evaluator(call, problem, theta0, x0, solver, max_iterations, budget)
    good = residuals is None or callable(residuals)
    rule, remedy = "must be None or a function", "give a function from x to [k]"
    require(good, call, "residuals", residuals, rule, remedy)
    values = _Values(f, theta0, x0, accuracy, max_steps, callback, residuals)
    package = _package(call, "dfols", "DFO-LS")
    # It allocates room for as many evaluations; each costs at least one gradient.
    most = max_steps if budget is None else min(max_steps, budget)
    # Random directions would be drawn from the global generator.
    given = {"init.random_initial_directions": False}
    return values.minimise(
        lambda start: package.solve(
            values.squares, start, maxfun=most, do_logging=False, user_params=given
        )
    )


def finite_differences(
    problem: Problem,
    theta0: Any,
    x0: Any,
    *,
    accuracy: float,
    difference: float | None = None,
    budget: int | None = None,
    max_steps: int = 100,
    solver: str | Solver = "newton-cg",
    max_iterations: int = 1000,
    callback: Callback | None = None,
) -> Result:
    """Minimise f by L-BFGS-B on forward differences; needs SciPy. Local.

    Args:
        problem: the two levels.
        theta0: a pytree of tensors, where to start.
        x0: a pytree of tensors, where the first lower-level solve starts.
        accuracy: eps of every solve.
        difference: the width of the differences. None is the root of eps, the best if f is
            known to about eps.
        budget: the largest cost.
        max_steps: the largest number of evaluations of f.
        solver: of the lower level.
        max_iterations: the largest number of iterations of that solver.
        callback: called after each evaluation that lowers f, with an empty state.

    Returns:
        The result, as `dfo_ls`.

    Raises:
        ValueError: as `dfo_ls`.
        ImportError: if SciPy is missing.
    """
    call = "finite_differences"
    if difference is not None:
        require_number(call, "difference", difference, "try 1e-3", above=0)
    f = Evaluator(call, problem, theta0, x0, solver, max_iterations, budget)
    values = _Values(f, theta0, x0, accuracy, max_steps, callback)
    package = _package(call, "scipy.optimize", "scipy")
    options = {"maxfun": max_steps, "eps": difference or accuracy**0.5}
    return values.minimise(
        lambda start: package.minimize(values.value, start, method="L-BFGS-B", options=options)
    )


class _Values:
    """f at a fixed accuracy as a function of an array, and the best of what was evaluated."""

    def __init__(
        self,
        f: Evaluator,
        theta0: Any,
        x0: Any,
        accuracy: float,
        max_steps: int,
        callback: Callback | None,
        residuals: Callable[[Any], Tensor] | None = None,
    ) -> None:
        require_number(f.call, "accuracy", accuracy, "try 0.01", above=0)
        require_whole(f.call, "max_steps", max_steps, "try 100", low=1)
        require_callback(f.call, callback)
        self._f, self._accuracy, self._max_steps = f, accuracy, max_steps
        self._callback, self._residuals = callback, residuals
        self._theta, self._x = f.oracle.flat_theta(theta0), f.oracle.flat_x(x0)
        self._warm, self._value = self._x, math.inf
        self._since = self._evaluations = 0
        self._short: Ending | None = None
        self._history: list[Step] = []

    def minimise(self, package: Callable[[Any], object]) -> Result:
        """Let a package's method start from theta0, and return the best that it evaluated."""
        status, oracle = Status.ENDED, self._f.oracle
        try:
            package(self._theta.double().cpu().numpy())
            if self._evaluations >= self._max_steps:
                status = Status.MAX_STEPS
        except BudgetSpentError:
            status = Status.BUDGET
        if self._short is not None:
            status = SHORT[self._short]
        return Result(
            oracle.theta_tree(plain(self._theta)),
            oracle.x_tree(plain(self._x)),
            self._value,
            status,
            status.message,
            self._history,
            oracle.counts,
            {},
        )

    def value(self, array: Any) -> float:
        """Return f."""
        x = self._solved(array)
        return _HUGE if x is None else float(self._f.oracle.upper(x)[0].mean())

    def squares(self, array: Any) -> Any:
        """Return residuals whose squares add up to f."""
        x = self._solved(array)
        at = self._x if x is None else x
        if self._residuals is not None:
            made = self._given(self._residuals, at, array)
        else:
            made = self._f.oracle.upper(at)[0]
            rule = "must not be negative, as f is treated as a sum of squares"
            remedy = "give residuals, or use finite_differences"
            good = (made >= 0).all()
            require(good, self._f.call, "problem.upper", float(made.min()), rule, remedy)
            made = (made / len(made)).sqrt()
        if x is None or not bool(made.isfinite().all()):
            made = torch.full_like(made, _HUGE**0.5)
        return made.detach().double().cpu().numpy()

    def _given(self, residuals: Callable[[Any], Any], x: Tensor, array: Any) -> Tensor:
        """Return the user's residuals, [k]; they must be finite where the run starts."""
        made = residuals(self._f.oracle.x_tree(plain(x)))
        good = isinstance(made, Tensor) and made.is_floating_point() and made.numel() > 0
        rule = "must return a tensor of a floating-point type"
        shown = made.dtype if isinstance(made, Tensor) else type(made).__name__
        require(good, self._f.call, "residuals", shown, rule, "as a1 @ x - b1 does")
        if self._evaluations == 1:
            what, theta = "`dfo_ls(residuals=...)`", torch.as_tensor(array)
            require_finite(what, theta, "start elsewhere", made.detach())
        return made.flatten()

    def _solved(self, array: Any) -> Tensor | None:
        """Return x at theta, or None if it is not finite; record the step if f is lowest."""
        f = self._f
        self._since, self._evaluations = self._since + 1, self._evaluations + 1
        # A copy: the array is the package's own.
        theta = torch.as_tensor(array).to(self._theta, copy=True)
        try:
            made = f.solve(theta, self._warm, self._accuracy)
            value, gradient = f.oracle.upper(made.x, theta)
            mean = float(value.mean())
            if mean < self._value:
                f.constants.see(made.x, theta)
        except NonFiniteError:
            if not self._history:
                raise
            return None
        self._warm = made.x
        if not made.met:
            self._short = made.ending
        if mean < self._value:
            self._theta, self._x, self._value = theta, made.x, mean
            smooth = f.constants.smoothness
            step = Step(
                step=len(self._history) + 1,
                value=mean,
                bound=upper_bound(value, norms(gradient), made.accuracy, smooth),
                accuracy=self._accuracy,
                trials=self._since,
                cost=f.oracle.counts.cost,
            )
            self._history.append(step)
            self._since = 0
            if self._callback is not None:
                self._callback(step, {})
        return made.x


def _package(call: str, module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"`{call}` needs the package {name}: pip install {name}.") from error

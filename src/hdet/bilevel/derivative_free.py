"""What needs no hypergradient: values of f alone, at a fixed accuracy, for few parameters.

`dfo_ls` fits a linear model of the residuals to as many values as there are parameters and one,
and trusts it near them; `finite_differences` takes differences of f for its gradient. Both are
other packages' methods, given the interface and the counts of ours: what an evaluation costs
is its lower-level solve, which begins at the last one's solution.

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

from ..errors import require
from .bounds import Constants, upper_bound
from .checks import require_callback, require_positive, require_whole
from .descent import short_of
from .endings import Ending
from .hypergradient import solver_of
from .modes import plain
from .oracle import BudgetSpentError, NonFiniteError, Oracle, norms, require_finite
from .problem import Problem
from .result import Callback, Result, Status, Step
from .solvers import Solver

# What stands for a value that is not finite: it must be larger than all others.
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
        theta0: a pytree of tensors, where to begin.
        x0: a pytree of tensors, where the first lower-level solve begins.
        residuals: x to [k], whose squares add up to f. None: the roots of each sample's g,
            which tell the method less.
        accuracy: eps, of every solve.
        budget: largest cost.
        max_steps: evaluations of f in all.
        solver: of the lower level.
        max_iterations: of that solver.
        callback: called after each evaluation that lowers f; its state is empty, as such a
            run cannot go on from one.

    Returns:
        The result, with the best point; its history has a step for each evaluation that
        lowered f. There is no hypergradient: `norm`, `length` and `error_bound` are NaN.

    Raises:
        ValueError: if an argument is out of range; if g is negative; if a level is no scalar,
            or not finite where the run begins; if the lower level does not depend on a tensor
            of theta.
        ImportError: if the package is missing.
    """
    values = _Values(
        "dfo_ls", problem, theta0, x0, accuracy, budget, max_steps, solver, max_iterations
    )
    good = residuals is None or callable(residuals)
    rule, remedy = "must be None or a function", "give x to [k]"
    require(good, "dfo_ls", "residuals", residuals, rule, remedy)
    require_callback("dfo_ls", callback)
    values.callback, values.residuals = callback, residuals
    package = _package("dfo_ls", "dfols", "DFO-LS")

    def minimise(start: Any) -> None:
        package.solve(
            values.squares,
            start,
            # It makes room for as many; each costs at least one gradient.
            maxfun=max_steps if budget is None else min(max_steps, budget),
            do_logging=False,
            # Random ones would be drawn from the global generator.
            user_params={"init.random_initial_directions": False},
        )

    return values.run(minimise)


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

    Arguments, result and errors as `dfo_ls`, but for

    Args:
        problem: the two levels.
        theta0: where to begin.
        x0: where the first lower-level solve begins.
        accuracy: eps, of every solve.
        difference: by which each parameter is moved. None: the root of eps, the best where f
            is known to about eps.
        budget: largest cost.
        max_steps: evaluations of f in all.
        solver: of the lower level.
        max_iterations: of that solver.
        callback: called after each evaluation that lowers f.
    """
    call = "finite_differences"
    if difference is not None:
        require_positive(call, "difference", difference)
    values = _Values(
        call, problem, theta0, x0, accuracy, budget, max_steps, solver, max_iterations
    )
    require_callback(call, callback)
    values.callback = callback
    package = _package(call, "scipy.optimize", "scipy")

    def minimise(start: Any) -> None:
        package.minimize(
            values.value,
            start,
            method="L-BFGS-B",
            options={"maxfun": max_steps, "eps": difference or accuracy**0.5},
        )

    return values.run(minimise)


class _Values:
    """f at fixed accuracy, as a function of an array, and the best of what was seen."""

    def __init__(
        self,
        call: str,
        problem: Problem,
        theta0: Any,
        x0: Any,
        accuracy: float,
        budget: int | None,
        max_steps: int,
        solver: str | Solver,
        max_iterations: int,
    ) -> None:
        require_positive(call, "accuracy", accuracy)
        for name, value in (
            ("max_steps", max_steps),
            ("max_iterations", max_iterations),
            ("budget", 1 if budget is None else budget),
        ):
            require_whole(call, name, value, 1, "try 1000")
        self._most = max_steps
        self._call, self._problem, self._accuracy = call, problem, accuracy
        self._oracle = Oracle(problem, theta0, x0, call, budget)
        self._constants = Constants(self._oracle)
        self._solver, self._limit = solver_of(call, solver), max_iterations
        self._theta, self._x = self._oracle.flat_theta(theta0), self._oracle.flat_x(x0)
        self._warm = self._x
        self._value = math.inf
        self._since = self._evaluations = 0
        self._short: Ending | None = None
        self._history: list[Step] = []
        self.callback: Callback | None = None
        self.residuals: Callable[[Any], Tensor] | None = None

    def run(self, minimise: Callable[[Any], None]) -> Result:
        """Let `minimise` go from the start, and return the best that it saw."""
        status = Status.ENDED
        try:
            minimise(self._theta.double().cpu().numpy())
            if self._evaluations >= self._most:
                status = Status.MAX_STEPS
        except BudgetSpentError:
            status = Status.BUDGET
        if self._short is not None:
            status = short_of(self._short) or status
        counts = self._oracle.counts
        return Result(
            self._oracle.theta_tree(plain(self._theta)),
            self._oracle.x_tree(plain(self._x)),
            self._value,
            status,
            f"Stopped because {status.value}; {status.remedy}.",
            self._history,
            counts,
            {},
            0,
        )

    def value(self, array: Any) -> float:
        """Return f."""
        x = self._solved(array)
        return _HUGE if x is None else float(self._oracle.upper(x)[0].mean())

    def squares(self, array: Any) -> Any:
        """Return residuals whose squares add up to f."""
        x = self._solved(array)
        at = self._x if x is None else x
        if self.residuals is not None:
            made = self._told(at, array)
        else:
            made = self._oracle.upper(at)[0]
            good = bool((made >= 0).all())
            rule = "must not be negative, as f is taken for a sum of squares"
            remedy = "give residuals, or take finite_differences"
            require(good, self._call, "problem.upper", float(made.min()), rule, remedy)
            made = (made / len(made)).sqrt()
        bad = x is None or not bool(made.isfinite().all())
        made = torch.full_like(made, _HUGE**0.5) if bad else made
        return made.detach().double().cpu().numpy()

    def _told(self, x: Tensor, array: Any) -> Tensor:
        """Return the user's residuals, [k]; where the run begins they must be finite."""
        assert self.residuals is not None
        made: Any = self.residuals(self._oracle.x_tree(plain(x)))
        good = isinstance(made, Tensor) and made.is_floating_point() and made.numel() > 0
        rule = "must return a tensor of a floating-point type"
        shown = type(made).__name__ if not isinstance(made, Tensor) else made.dtype
        require(good, self._call, "residuals", shown, rule, "as a1 @ x - b1 does")
        if self._evaluations == 1:
            theta = torch.as_tensor(array)
            require_finite("`dfo_ls(residuals=...)`", theta, "begin elsewhere", made.detach())
        return made.flatten()

    def _solved(self, array: Any) -> Tensor | None:
        """Return x at theta, or None where it is not finite; take note if f is the lowest."""
        self._since, self._evaluations = self._since + 1, self._evaluations + 1
        # A copy: the array is the package's own.
        theta = torch.as_tensor(array).to(self._theta, copy=True)
        try:
            mu = self._oracle.mu(theta)
            made = self._solver(
                self._oracle, theta, self._warm, self._accuracy, mu, self._limit
            )
            value, gradient = self._oracle.upper(made.x, theta)
            mean = float(value.mean())
            if mean < self._value:
                self._constants.see(made.x, theta)
        except NonFiniteError:
            if not self._history:
                raise
            return None
        self._warm = made.x
        if not made.met:
            self._short = made.ending
        if mean < self._value:
            smooth = self._constants.smoothness
            self._theta, self._x, self._value = theta, made.x, mean
            self._history.append(
                Step(
                    step=len(self._history) + 1,
                    value=mean,
                    bound=upper_bound(value, norms(gradient), made.accuracy, smooth),
                    accuracy=self._accuracy,
                    residual=math.nan,
                    length=math.nan,
                    norm=math.nan,
                    error_bound=math.nan,
                    trials=self._since,
                    refinements=0,
                    cost=self._oracle.counts.cost,
                )
            )
            self._since = 0
            if self.callback is not None:
                self.callback(self._history[-1], {})
        return made.x


def _package(call: str, module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"`{call}` needs the package {name}: pip install {name}.") from error

"""What every outer method has: a point that moves, a budget, a history, and an end.

A method is a function that makes one outer step of a `Run` and returns None, or a `Status` to
stop. A step that a spent budget cuts short leaves the run where the step began.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from sys import float_info
from typing import Any

import torch
from torch import Tensor

from ..errors import require
from .bounds import Constants
from .checks import is_number, require_callback, require_positive, require_whole
from .endings import Ending
from .hypergradient import Estimate, estimate, solver_of
from .modes import plain
from .oracle import BudgetSpentError, Oracle, norms
from .problem import Problem
from .result import Callback, Result, Status, Step
from .resuming import Point, parsed, written
from .solvers import Solution, Solver

# Of the first lower-level gradient, and of theta: starts that are free of scale.
_FIRST_ACCURACY, _FIRST_MOVE = 0.02, 0.01


@dataclass(frozen=True)
class Options:
    """What all methods take; documented at `maid`.

    `first`: the part of x's length at theta0 that eps0 is where `accuracy` is None, for methods
    that cannot mend a bad start. None: eps0 is what the first gradient and mu tell, at once.
    """

    accuracy: float | None
    residual: float | None
    step: float | None
    max_steps: int
    budget: int | None
    tolerance: float
    certify: bool
    solver: str | Solver
    max_iterations: int
    callback: Callback | None
    state: dict[str, Any] | None
    first: float | None = None

    def check(self, call: str) -> None:
        """Raise a `ValueError` if one is out of range."""
        for name in ("accuracy", "residual", "step"):
            if getattr(self, name) is not None:
                require_positive(call, name, getattr(self, name))
        require_whole(call, "max_steps", self.max_steps, 1, "try 100")
        require_whole(call, "max_iterations", self.max_iterations, 1, "try 1000")
        if self.budget is not None:
            require_whole(call, "budget", self.budget, 1, "try 10_000")
        good = is_number(self.tolerance) and 0 <= self.tolerance < math.inf
        rule = "must be finite and at least 0"
        require(good, call, "tolerance", self.tolerance, rule, "0 goes on")
        require_callback(call, self.callback)


class Run:
    """A run of an outer method.

    Args:
        call: the public name that was called, for errors.
        problem: the two levels.
        theta0: where to begin.
        x0: likewise.
        options: what the user asked for.

    Attributes:
        at: where the run is.
        oracle: the problem, counted.
        constants: L_g and |J|.
        options: what the user asked for.
    """

    def __init__(
        self, call: str, problem: Problem, theta0: Any, x0: Any, options: Options
    ) -> None:
        options.check(call)
        self.options = options
        self.oracle = Oracle(problem, theta0, x0, call, options.budget)
        self.constants = Constants(self.oracle)
        self._solver = solver_of(call, options.solver)
        self._history: list[Step] = []
        theta, x = self.oracle.flat_theta(theta0), self.oracle.flat_x(x0)
        if options.state is not None:
            resumed = parsed(call, options.state, theta, x)
            self.constants.load_state_dict(resumed.constants, theta)
            self.at, self._history = resumed.point, resumed.history
            self.oracle.counts = resumed.counts
        else:
            # x0 is no solution: g need not even be finite there.
            value = float(self.oracle.upper(x)[0].mean())
            value = value if math.isfinite(value) else math.inf
            accuracy = options.accuracy or 0.0
            self.at = Point(theta, x, value, accuracy, options.residual, options.step)
        self._rows = [asdict(step) for step in self._history]

    def descend(self, outer_step: Callable[["Run"], Status | None]) -> Result:
        """Make steps until one says why to stop, and return the result."""
        status = Status.MAX_STEPS
        self._state = self._snapshot()
        try:
            if not self.at.accuracy:
                self.at.accuracy = self._first_accuracy()
                self._state = self._snapshot()
            while self.at.step < self.options.max_steps:
                stop = outer_step(self)
                if stop is not None:
                    status = stop
                    break
                self._state = self._snapshot()
                if self.options.callback is not None:
                    self.options.callback(self._history[-1], self._state)
        except BudgetSpentError:
            status = Status.BUDGET
            self.at = Point(**self._state["point"])
        return Result(
            self.oracle.theta_tree(plain(self.at.theta)),
            self.oracle.x_tree(plain(self.at.x)),
            self.at.value,
            status,
            f"Stopped because {status.value}; {status.remedy}.",
            list(self._history),
            replace(self.oracle.counts),
            self._state,
            self.at.failed,
        )

    def estimate(self) -> Estimate:
        """Return the hypergradient where the run is, and keep its x and q for warm starts."""
        at = self.at
        made = estimate(
            self.oracle,
            self.constants,
            at.theta,
            at.x,
            at.accuracy,
            at.residual,
            solver=self._solver,
            limit=self.options.max_iterations,
            certify=self.options.certify,
            q=at.q,
        )
        at.x, at.q, at.value = made.x, made.q, float(made.value.mean())
        return made

    def solve(self, theta: Tensor, x: Tensor) -> tuple[Solution, Tensor, Tensor]:
        """Return the lower level's solution at theta, and g and |grad g| there, [m]."""
        mu = self.oracle.mu(theta)
        limit = self.options.max_iterations
        solution = self._solver(self.oracle, theta, x, self.at.accuracy, mu, limit)
        value, gradient = self.oracle.upper(solution.x, theta)
        self.constants.see(solution.x, theta)
        return solution, value, norms(gradient)

    def at_rest(self, found: Estimate) -> bool:
        """Whether z is within its tolerance, and certain to be where that is tested."""
        tolerance = self.options.tolerance
        exact = not self.options.certify or found.omega <= tolerance
        return found.norm <= tolerance and (exact or not bool(found.slope.any()))

    def first_length(self, norm: float) -> float:
        """Return a first step that moves theta by a hundredth of its length, or of 1."""
        size = float(torch.linalg.vector_norm(self.at.theta))
        return _FIRST_MOVE * max(size, 1.0) / norm

    @property
    def residual(self) -> float:
        """delta: the user's, or the one that follows eps."""
        at = self.at
        return self.constants.smoothness * at.accuracy if at.residual is None else at.residual

    def scale_accuracy(self, factor: float) -> None:
        """Multiply eps and delta; neither becomes zero, which is no accuracy at all."""
        self.at.accuracy = max(factor * self.at.accuracy, float_info.min)
        if self.at.residual is not None:
            self.at.residual = max(factor * self.at.residual, float_info.min)

    def record(self, step: Step) -> None:
        """Take a step that was made into the history."""
        self._history.append(step)
        self._rows.append(asdict(step))

    def _first_accuracy(self) -> float:
        """Return eps0 where nobody gave one; counted like all else."""
        at, floor = self.at, torch.finfo(self.oracle.dtype).eps ** 0.5
        mu = self.oracle.mu(at.theta)
        sizes = norms(self.oracle.lower(at.x, at.theta)[1]) / mu
        first = _FIRST_ACCURACY * float(sizes.max())
        if first and self.options.first is not None:
            # mu may be far below what h's curvature is, and the gradient then says nothing of
            # x; a rough solution does. The run begins there, so that nothing is lost.
            limit = self.options.max_iterations
            rough = self._solver(self.oracle, at.theta, at.x, first, mu, limit).x
            at.x, moved = rough, norms(rough - at.x)
            return self.options.first * float(torch.maximum(norms(rough), moved).max())
        # A start that is a solution already has no scale but x's own.
        return first or floor * max(1.0, float(at.x.norm()))

    def _snapshot(self) -> dict[str, Any]:
        constants = self.constants.state_dict()
        return written(self.at, self.oracle.counts, self._rows, constants)


def short_of(ending: Ending) -> Status | None:
    """Return the status of a run that needs what a solver could not give."""
    return {
        Ending.FLOOR: Status.ACCURACY_FLOOR,
        Ending.ITERATIONS: Status.LOWER_LEVEL,
    }.get(ending)

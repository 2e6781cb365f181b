"""The inexact hypergradient: one lower-level solve, one linear solve, one mixed product.

    x     with  |grad h(x, theta)| <= eps mu
    q     with  |H q - grad g(x)|  <= delta
    z = -J^T q,   the mean over samples

Source: arXiv 2308.10098, section 2 and Theorem 2.1; implicit differentiation at the solution.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import require_choice, require_number, require_whole
from .bounds import Constants
from .linear import Ending, conjugate_gradients
from .modes import plain
from .oracle import Counts, Oracle, norms, require_finite
from .problem import Problem
from .resuming import State
from .solvers import SOLVERS, Solution, Solver

# As a part of |grad g|.
_LARGEST_RESIDUAL = 0.1


@dataclass(frozen=True)
class Hypergradient:
    """What `hypergradient` returns.

    Attributes:
        value: z, like theta.
        x: the lower level's solution, like x0.
        upper: the upper level's value there, the mean over samples.
        error_bound: omega >= |z - grad f| by Theorem 2.1, from what was reached; infinite
            if a constant is missing.
        accuracy: the |grad h| / mu that was reached, the largest of the samples'.
        residual: the |H q - grad g| that was reached, the largest of the samples'.
        met: whether both tolerances were met.
        message: why not, else empty.
        counts: what it took.
    """

    value: Any
    x: Any
    upper: float
    error_bound: float
    accuracy: float
    residual: float
    met: bool
    message: str
    counts: Counts


def hypergradient(
    problem: Problem,
    theta: Any,
    x0: Any,
    *,
    accuracy: float,
    residual: float | None = None,
    solver: str | Solver = "newton-cg",
    max_iterations: int = 1000,
) -> Hypergradient:
    """Return the inexact gradient of f at theta, and how exact it is. Local.

    Args:
        problem: the two levels.
        theta: a pytree of tensors, where.
        x0: a pytree of tensors, where the lower level's solver starts.
        accuracy: eps > 0, the allowed distance to the lower level's solution, in units of x.
        residual: delta > 0, the allowed residual of the linear solve, in units of grad g. None
            is L_g eps, which adds as much to the error as the first term of eps does. Never
            more than a tenth of |grad g|, whatever is given.
        solver: of the lower level: "newton-cg", "lbfgs", "accelerated-gradient", or a
            function of their signature.
        max_iterations: the largest number of iterations of the solver.

    Returns:
        The hypergradient; `met` says whether it is as exact as was asked for.

    Raises:
        ValueError: if an argument is out of range; if a level does not return a scalar, or is
            not finite; if the lower level does not depend on a tensor of theta, or its
            curvature contradicts `mu`.
    """
    call = "hypergradient"
    require_number(call, "accuracy", accuracy, "try 0.01", above=0)
    if residual is not None:
        require_number(call, "residual", residual, "try 0.01", above=0)
    f = Evaluator(call, problem, theta, x0, solver, max_iterations, argument="theta")
    oracle = f.oracle
    flat = oracle.flat_theta(theta), oracle.flat_x(x0)
    state = State(*flat, math.inf, accuracy, residual, None)
    made, _ = f.hypergradient(state, certify=problem.certified)
    met = made.ending is Ending.MET
    return Hypergradient(
        oracle.theta_tree(plain(made.z)),
        oracle.x_tree(plain(made.x)),
        made.mean,
        made.omega,
        float(made.accuracy.max()),
        float(made.residual.max()),
        met,
        "" if met else f"a solver stopped: {made.ending.value}",
        replace(oracle.counts),
    )


@dataclass(frozen=True)
class Estimate:
    """A hypergradient at flat points, and how exact it is."""

    z: Tensor  # [p]
    x: Tensor  # [m, n]
    value: Tensor  # g(x), [m]
    upper_grad_norm: Tensor  # |grad g(x)|, [m]
    accuracy: Tensor  # as reached, [m]
    residual: Tensor  # as reached, [m]
    ending: Ending  # MET, or why the lower level's solver fell short, else the linear one
    omega: float  # Theorem 2.1's bound; infinite where constants are missing

    @property
    def norm(self) -> float:
        """|z|."""
        return float(torch.linalg.vector_norm(self.z))

    @property
    def mean(self) -> float:
        """The mean of g over samples."""
        return float(self.value.mean())


class Evaluator:
    """f at flat points, as exactly as is asked for: lower-level solves and hypergradients.

    theta and x are pytrees with the structure of those to come. `call` is the public function
    whose arguments these are, and `argument` what theta is called there.
    """

    def __init__(
        self,
        call: str,
        problem: Problem,
        theta: Any,
        x: Any,
        solver: str | Solver = "newton-cg",
        max_iterations: int = 1000,
        budget: int | None = None,
        *,
        argument: str = "theta0",
    ) -> None:
        require_whole(call, "max_iterations", max_iterations, "try 1000", low=1)
        if budget is not None:
            require_whole(call, "budget", budget, "try 10_000", low=1)
        if not callable(solver):
            require_choice(call, "solver", solver, list(SOLVERS), "a function is allowed too")
            solver = SOLVERS[solver]
        self.call, self._solver, self._limit = call, solver, max_iterations
        self.oracle = Oracle(problem, theta, x, call, budget, argument)
        self.constants = Constants(self.oracle)

    def solve(
        self, theta: Tensor, x: Tensor, accuracy: float, mu: float | None = None
    ) -> Solution:
        """Return the lower level's solution at theta, solved from x to the accuracy."""
        mu = self.oracle.mu(theta) if mu is None else mu
        return self._solver(self.oracle, theta, x, accuracy, mu, self._limit)

    def evaluate(
        self, theta: Tensor, x: Tensor, accuracy: float, mu: float | None = None
    ) -> tuple[Solution, Tensor, Tensor]:
        """Return the solution, and g and its gradient there; arguments as `solve`."""
        solution = self.solve(theta, x, accuracy, mu)
        value, gradient = self.oracle.upper(solution.x, theta)
        self.constants.see(solution.x, theta)
        return solution, value, gradient

    def residual(self, state: State) -> float:
        """Return delta: the user's, or L_g eps."""
        given = state.residual
        return self.constants.smoothness * state.accuracy if given is None else given

    def hypergradient(self, state: State, *, certify: bool) -> tuple[Estimate, State]:
        """Return z, with omega if `certify`, and the state with its x and q for warm starts."""
        oracle, theta, mu = self.oracle, state.theta, self.oracle.mu(state.theta)
        solution, value, gradient = self.evaluate(theta, state.x, state.accuracy, mu)
        upper_grad_norm = norms(gradient)
        # A residual as large as grad g would accept q = 0, and any start as a minimum.
        delta = torch.clamp(_LARGEST_RESIDUAL * upper_grad_norm, max=self.residual(state))
        product = oracle.hessian(solution.x, theta)
        linear = conjugate_gradients(product, gradient, delta, mu=mu, start=state.q)
        z = -oracle.jacobian_transposed(solution.x, theta, linear.solution) / len(gradient)
        remedy = "its gradient in x must be differentiable there in theta, and in x again"
        require_finite("a second derivative of `Problem(lower=...)`", theta, remedy, z)
        omega = math.inf
        if certify:
            omega = self.constants.omega(
                theta, solution.x, upper_grad_norm, solution.accuracy, linear.residual, mu
            )
        found = Estimate(
            z,
            solution.x,
            value,
            upper_grad_norm,
            solution.accuracy,
            linear.residual,
            linear.ending if solution.met else solution.ending,
            omega,
        )
        return found, replace(state, x=found.x, q=linear.solution, value=found.mean)

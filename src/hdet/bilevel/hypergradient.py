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

from ..errors import require
from .bounds import Constants
from .checks import require_positive, require_whole
from .endings import Ending
from .linear import conjugate_gradients
from .modes import plain
from .oracle import Counts, Oracle, norms, require_finite
from .problem import Problem
from .solvers import SOLVERS, Solver

# As a part of |grad g|.
_LARGEST_RESIDUAL = 0.1


@dataclass(frozen=True)
class Estimate:
    """A hypergradient at flat points.

    Attributes:
        z: [p].
        x: [m, n].
        q: [m, n].
        value: g(x), [m].
        slope: |grad g(x)|, [m].
        accuracy: reached, [m].
        residual: reached, [m].
        ending: MET, or why a solver fell short: the lower level's, else the linear one.
        omega: Theorem 2.1's bound; infinite where constants are missing.
    """

    z: Tensor
    x: Tensor
    q: Tensor
    value: Tensor
    slope: Tensor
    accuracy: Tensor
    residual: Tensor
    ending: Ending
    omega: float

    @property
    def norm(self) -> float:
        """|z|."""
        return float(torch.linalg.vector_norm(self.z))


@dataclass(frozen=True)
class Hypergradient:
    """What `hypergradient` returns.

    Attributes:
        value: z, like theta.
        x: the lower level's solution, like x0.
        upper: the upper level's value there, the mean over samples.
        error_bound: omega >= |z - grad f| by Theorem 2.1, from what was reached; infinite
            where a constant is missing.
        accuracy: |grad h| / mu that was reached, the largest of the samples'.
        residual: |H q - grad g| that was reached, the largest of the samples'.
        met: whether both tolerances were.
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
        problem: a `Problem`.
        theta: a pytree of tensors, where.
        x0: a pytree of tensors, where the lower level's solver begins.
        accuracy: eps > 0, allowed distance to the lower level's solution, in units of x.
        residual: delta > 0, allowed residual of the linear solve, in units of grad g; None is
            L_g eps, which adds as much to the error as the first term of eps does. A tenth
            of grad g at most, whatever is given.
        solver: of the lower level: "newton-cg", "lbfgs", "accelerated-gradient", or a
            function of their signature.
        max_iterations: of the solver.

    Raises:
        ValueError: if an argument is out of range; if a level is no scalar, or not finite
            where it is looked at; if the lower level does not depend on a tensor of theta, or
            its curvature contradicts `mu`.
    """
    call = "hypergradient"
    require_positive(call, "accuracy", accuracy)
    if residual is not None:
        require_positive(call, "residual", residual)
    require_whole(call, "max_iterations", max_iterations, 1, "try 1000")
    oracle = Oracle(problem, theta, x0, call, argument="theta")
    made = estimate(
        oracle,
        Constants(oracle),
        oracle.flat_theta(theta),
        oracle.flat_x(x0),
        accuracy,
        residual,
        solver=solver_of(call, solver),
        limit=max_iterations,
        certify=problem.certified,
    )
    met = made.ending is Ending.MET
    return Hypergradient(
        oracle.theta_tree(plain(made.z)),
        oracle.x_tree(plain(made.x)),
        float(made.value.mean()),
        made.omega,
        float(made.accuracy.max()),
        float(made.residual.max()),
        met,
        "" if met else f"a solver stopped: {made.ending.value}",
        replace(oracle.counts),
    )


def estimate(
    oracle: Oracle,
    constants: Constants,
    theta: Tensor,
    x: Tensor,
    accuracy: float,
    residual: float | None,
    *,
    solver: Solver,
    limit: int,
    certify: bool,
    q: Tensor | None = None,
) -> Estimate:
    """Return the hypergradient at flat points; arguments as `hypergradient`.

    Args:
        oracle: the problem.
        constants: L_g and |J|.
        theta: [p].
        x: where the solver begins, [m, n].
        accuracy: eps.
        residual: delta, or None.
        solver: of the lower level.
        limit: of the solver's iterations.
        certify: whether to compute omega.
        q: where conjugate gradients begin.
    """
    mu = oracle.mu(theta)
    solution = solver(oracle, theta, x, accuracy, mu, limit)
    value, gradient = oracle.upper(solution.x, theta)
    constants.see(solution.x, theta)
    slope = norms(gradient)
    delta = constants.smoothness * accuracy if residual is None else residual
    # A residual as large as grad g would take q = 0 for a solution, and any start for a
    # minimum.
    delta = torch.clamp(_LARGEST_RESIDUAL * slope, max=delta)
    linear = conjugate_gradients(
        oracle.hessian(solution.x, theta), gradient, delta, mu=mu, start=q
    )
    z = -oracle.jacobian_transposed(solution.x, theta, linear.solution) / len(x)
    remedy = "see that its gradient in x can be differentiated there by theta, and by x again"
    require_finite("a second derivative of `Problem(lower=...)`", theta, remedy, z)
    omega = math.inf
    if certify:
        omega = constants.omega(
            theta, solution.x, slope, solution.accuracy, linear.residual, mu
        )
    return Estimate(
        z,
        solution.x,
        linear.solution,
        value,
        slope,
        solution.accuracy,
        linear.residual,
        linear.ending if solution.met else solution.ending,
        omega,
    )


def solver_of(call: str, solver: str | Solver) -> Solver:
    """Return a solver by its name, or the solver itself.

    Raises:
        ValueError: if there is none of that name.
    """
    if callable(solver):
        return solver
    words = f"write one of {', '.join(SOLVERS)}"
    good = isinstance(solver, str) and solver in SOLVERS
    require(good, call, "solver", solver, "is not known", words)
    return SOLVERS[solver]

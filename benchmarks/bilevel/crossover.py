"""From which condition number on adaptive accuracy is worth its line search.

Quadratic levels whose matrices have singular values from 1 to a condition number, a lower level
that is solved by gradient descent, and the cost until f is within half a percent of its
minimum. Compared are MAID as printed, with and without its test on omega, a constant step at a
fixed accuracy, and our default: with the same lower-level solver, and with its own.

Where a tight solve costs next to nothing, fixed accuracy wins: there is nothing to save.

Source: the generator, the settings and the table are those that M. S. Salehi, the method's
first author, proposed to the library deepinv as an example (pull request 1318).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hdet.bilevel import Problem, Rules, Step, hypergradient, maid
from hdet.bilevel.oracle import Oracle, norms
from hdet.bilevel.solvers import Solution
from hdet.bilevel.solvers.solution import Progress

CONDITIONS = (2, 5, 10, 20, 30)
METHODS = {
    "paper": "MAID as printed",
    "certified": "MAID as printed, certified",
    "fixed": "fixed accuracy 1e-4",
    "maid": "MAID",
    "maid-newton": "MAID, Newton-CG below",
}
# Outer steps by condition number, as the source has them.
PUBLISHED = {"paper": (2, 3, 4, 5, 6), "fixed": (2, 5, 9, 16, 23)}
_ROWS, _SIZE, _SEED = 80, 4, 1
_GAP, _LOOSE, _FIXED = 5e-3, 1e-1, 1e-4
_MOST_STEPS, _MOST_ITERATIONS = 200, 1_000_000


@dataclass(frozen=True)
class Quadratic:
    """A problem, the value of its upper level, and what is known of that.

    Attributes:
        problem: the two levels.
        value: f(theta).
        least: its minimum.
        upper_curvature: L_f, of f.
        lower_curvature: L, of h.
    """

    problem: Problem
    value: Callable[[Tensor], float]
    least: float
    upper_curvature: float
    lower_curvature: float

    def reached(self, theta: Tensor) -> bool:
        """Return whether f is within half a percent of its minimum, or of 1 if that is less."""
        return self.value(theta) - self.least < _GAP * max(self.least, 1.0)


def quadratic(condition: float) -> Quadratic:
    """Return g = |A1 x - b1|^2 over h = |A2 x + A3 theta - b2|^2, 80 x 4.

    Args:
        condition: ratio of the singular values of each matrix.
    """
    source = torch.Generator().manual_seed(_SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    sizes = torch.tensor(float(condition), dtype=torch.float64) ** torch.linspace(
        0, 1, _SIZE, dtype=torch.float64
    )
    a1, a2, a3 = (torch.linalg.qr(normal(_ROWS, _SIZE))[0] * sizes for _ in range(3))
    b1, b2 = normal(_ROWS), normal(_ROWS)
    solve = torch.linalg.pinv(a2)
    linear, offset = -a1 @ solve @ a3, a1 @ solve @ b2 - b1

    def value(theta: Tensor) -> float:
        return float((linear @ theta + offset).square().sum())

    best = -torch.linalg.pinv(linear) @ offset
    curvature = [2 * float(torch.linalg.matrix_norm(a, 2)) ** 2 for a in (a1, a2, linear)]
    problem = Problem(
        lambda x: (a1 @ x - b1).square().sum(),
        lambda x, theta: (a2 @ x + a3 @ theta - b2).square().sum(),
        mu=2 * float(torch.linalg.matrix_norm(a2, -2)) ** 2 * (1 - 1e-9),
        upper_smoothness=curvature[0],
        upper_convex=True,
        jacobian_norm=2 * float(torch.linalg.matrix_norm(a2.T @ a3, 2)),
        inverse_hessian_lipschitz=0.0,
        jacobian_lipschitz=0.0,
    )
    return Quadratic(problem, value, value(best), curvature[2], curvature[1])


def measure(condition: float, method: str) -> dict[str, Any]:
    """Run one method until f is low enough.

    Args:
        condition: of the matrices.
        method: one of `METHODS`.

    Returns:
        `outer`: outer steps; `descent`: gradient-descent iterations of all lower-level solves;
        `cost`: lower gradients, Hessian-vector and mixed products; `reached`: whether it was.
    """
    made = quadratic(condition)
    descent = _GradientDescent(made.lower_curvature)
    if method == "fixed":
        outer, cost, reached = _fixed(made, descent)
    else:
        outer, cost, reached = _maid(made, method, descent)
    return {"outer": outer, "descent": descent.iterations, "cost": cost, "reached": reached}


class _ReachedError(Exception):
    """f is low enough: a question that only a benchmark can ask."""


def _maid(made: Quadratic, method: str, descent: "_GradientDescent") -> tuple[int, int, bool]:
    steps: list[Step] = []

    def look(step: Step, state: dict[str, Any]) -> None:
        steps.append(step)
        if made.reached(state["point"]["theta"]):
            raise _ReachedError

    rules = Rules()
    if method in ("paper", "certified"):
        rules = replace(Rules.paper(relax=1.1), grow=1.5, trials=15)
    try:
        maid(
            made.problem,
            torch.ones(_SIZE, dtype=torch.float64),
            torch.zeros(_SIZE, dtype=torch.float64),
            accuracy=_LOOSE,
            residual=_LOOSE,
            step=1 / made.upper_curvature,
            max_steps=_MOST_STEPS,
            certify=method == "certified",
            rules=rules,
            solver="newton-cg" if method == "maid-newton" else descent,
            max_iterations=_MOST_ITERATIONS,
            callback=look,
        )
    except _ReachedError:
        return len(steps), steps[-1].cost, True
    return len(steps), steps[-1].cost if steps else 0, False


def _fixed(made: Quadratic, descent: "_GradientDescent") -> tuple[int, int, bool]:
    theta, x = torch.ones(_SIZE, dtype=torch.float64), torch.zeros(_SIZE, dtype=torch.float64)
    outer = cost = 0
    while outer < _MOST_STEPS and not made.reached(theta):
        found = hypergradient(
            made.problem,
            theta,
            x,
            accuracy=_FIXED,
            residual=_FIXED,
            solver=descent,
            max_iterations=_MOST_ITERATIONS,
        )
        theta, x = theta - found.value / made.upper_curvature, found.x
        outer, cost = outer + 1, cost + found.counts.cost
    return outer, cost, made.reached(theta)


class _GradientDescent:
    """A lower-level solver of steps 1/L, which counts them."""

    def __init__(self, curvature: float) -> None:
        self._step_size, self.iterations = 1 / curvature, 0

    def __call__(
        self, oracle: Oracle, theta: Tensor, x: Tensor, accuracy: float, mu: float, limit: int
    ) -> Solution:
        progress = Progress(accuracy * mu, limit, patience=50)
        gradient = oracle.lower(x, theta)[1]
        while (ending := progress.ending(gradient)) is None:
            x = x - self._step_size * gradient
            gradient = oracle.lower(x, theta)[1]
        self.iterations += progress.iterations
        return Solution(x, norms(gradient) / mu, ending, progress.iterations)

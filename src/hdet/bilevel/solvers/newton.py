"""Newton's method with conjugate gradients for the lower level.

Far from the solution H d = -grad h is solved to a tenth of the gradient; close to it, to half
of what is asked for, so that a quadratic is solved in one step.
"""

import torch
from torch import Tensor

from ..linear import conjugate_gradients
from ..oracle import Oracle, norms
from .line_search import line_search
from .solution import Progress, Solution

_FORCING = 0.1


def newton_cg(
    oracle: Oracle, theta: Tensor, x: Tensor, accuracy: float, mu: float, limit: int
) -> Solution:
    """Solve the lower level.

    Args:
        oracle: the problem.
        theta: [p].
        x: where to start, [m, n].
        accuracy: eps, allowed distance to the solution of each sample.
        mu: strong convexity at theta.
        limit: most Newton steps.
    """
    progress = Progress(accuracy * mu, limit, patience=4)
    value, gradient = oracle.lower(x, theta)
    while (ending := progress.ending(gradient)) is None:
        sizes = norms(gradient)
        tolerance = torch.clamp(_FORCING * sizes, min=accuracy * mu / 2)
        # A sample that is done gets the direction zero.
        tolerance = torch.where(progress.open, tolerance, torch.inf)
        direction = -conjugate_gradients(
            oracle.hessian(x, theta), gradient, tolerance, mu=mu
        ).solution
        x, value, gradient = line_search(
            lambda at: oracle.lower(at, theta), x, value, gradient, direction, progress.open
        )
    return Solution(x, norms(gradient) / mu, ending, progress.iterations)

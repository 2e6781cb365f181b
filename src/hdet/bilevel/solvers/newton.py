"""Newton's method with conjugate gradients for the lower level.

Far from the solution H d = -grad h is solved to a tenth of the gradient; close to it, to half
of the tolerance, so that a quadratic takes one step.
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
        accuracy: eps, the allowed distance to the solution of each sample.
        mu: the strong convexity at theta.
        limit: the largest number of Newton steps.

    Returns:
        The solution, with the accuracy that was reached.
    """
    progress = Progress(accuracy * mu, limit, patience=4)
    value, gradient = oracle.lower(x, theta)
    while (ending := progress.ending(gradient)) is None:
        sizes = norms(gradient)
        tolerance = torch.clamp(_FORCING * sizes, min=accuracy * mu / 2)
        # The direction of a sample that is done is zero.
        tolerance = torch.where(progress.open, tolerance, torch.inf)
        direction = -conjugate_gradients(
            oracle.hessian(x, theta), gradient, tolerance, mu=mu
        ).solution
        x, value, gradient = line_search(
            lambda at: oracle.lower(at, theta), x, value, gradient, direction, progress.open
        )
    return Solution(x, norms(gradient) / mu, ending, progress.iterations)

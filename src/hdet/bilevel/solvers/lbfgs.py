"""L-BFGS for the lower level; each sample has its own memory and step size.

The two-loop recursion of Nocedal and Wright, *Numerical Optimization*, algorithm 7.4. The first
step size comes from one Hessian-vector product, as nothing is known of the scale.
"""

import torch
from torch import Tensor

from ..oracle import Oracle, dots, norms
from .line_search import line_search
from .solution import Progress, Solution

_MEMORY = 10


def lbfgs(
    oracle: Oracle, theta: Tensor, x: Tensor, accuracy: float, mu: float, limit: int
) -> Solution:
    """Solve the lower level; arguments as `newton_cg`, `limit` counts steps."""
    progress = Progress(accuracy * mu, limit, patience=50)
    value, gradient = oracle.lower(x, theta)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    scale = torch.ones_like(value)
    while (ending := progress.ending(gradient)) is None:
        if not pairs:
            curvature = dots(gradient, oracle.hessian(x, theta)(gradient))
            scale = torch.where(progress.open, dots(gradient, gradient) / curvature, 0.0)
        direction = -_inverse_hessian(pairs, scale, gradient)
        last, old = x, gradient
        x, value, gradient = line_search(
            lambda at: oracle.lower(at, theta), x, value, gradient, direction, progress.open
        )
        s, y = x - last, gradient - old
        product = dots(s, y)
        # A sample that stood still adds nothing.
        moved = product > 0
        inverse = torch.where(moved, 1 / product, 0.0)
        scale = torch.where(moved, product / dots(y, y), scale)
        pairs = [*pairs, (s, y, inverse)][-_MEMORY:]
    return Solution(x, norms(gradient) / mu, ending, progress.iterations)


def _inverse_hessian(
    pairs: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor, gradient: Tensor
) -> Tensor:
    """Return the approximate inverse Hessian times the gradient."""
    direction, weights = gradient, []
    for s, y, inverse in reversed(pairs):
        weight = inverse * dots(s, direction)
        weights.append(weight)
        direction = direction - weight[:, None] * y
    direction = scale[:, None] * direction
    for (s, y, inverse), weight in zip(pairs, reversed(weights), strict=True):
        direction = direction + (weight - inverse * dots(y, direction))[:, None] * s
    return direction

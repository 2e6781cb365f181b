"""Accelerated gradient descent for the lower level.

Nesterov's method for strongly convex functions, with the momentum (sqrt(L) - sqrt(mu)) /
(sqrt(L) + sqrt(mu)). L comes from power iterations on the Hessian where the solve begins, and
rises where gradients prove it too small. A sample whose gradient then, or by its momentum,
points back along its way restarts (the gradient test of O'Donoghue and Candes).
"""

import torch
from torch import Tensor

from ..linear import largest_curvatures, noise
from ..oracle import Oracle, dots, norms
from .solution import Progress, Solution

_ROUNDS, _MARGIN = 10, 1.02


def accelerated_gradient(
    oracle: Oracle, theta: Tensor, x: Tensor, accuracy: float, mu: float, limit: int
) -> Solution:
    """Solve the lower level; arguments as `newton_cg`, `limit` counts steps."""
    progress = Progress(accuracy * mu, limit, patience=100)
    point = x
    _, gradient = oracle.lower(point, theta)
    smoothness: Tensor | None = None
    while (ending := progress.ending(gradient)) is None:
        if smoothness is None:
            smoothness = _largest_curvature(oracle, theta, point, gradient, mu)
        root = (mu / smoothness).sqrt()
        momentum = (1 - root) / (1 + root)
        new = point - gradient / smoothness[:, None]
        back = dots(gradient, new - x) > 0
        ahead = new + torch.where(back, 0.0, momentum)[:, None] * (new - x)
        ahead = torch.where(progress.open[:, None], ahead, point)
        _, new_gradient = oracle.lower(ahead, theta)
        # Lipschitz: gradients differ by at most L times the distance.
        way = norms(ahead - point)
        ratio = torch.where(way > 0, norms(new_gradient - gradient) / way, 0.0)
        rounding = 64 * torch.finfo(x.dtype).eps * norms(gradient)
        low = (ratio > smoothness) & (norms(new_gradient - gradient) > rounding)
        smoothness = torch.where(low, _MARGIN * ratio, smoothness)
        x = torch.where(low[:, None], ahead, new)
        point, gradient = ahead, new_gradient
    return Solution(point, norms(gradient) / mu, ending, progress.iterations)


def _largest_curvature(
    oracle: Oracle, theta: Tensor, x: Tensor, gradient: Tensor, mu: float
) -> Tensor:
    """Return L of each sample at x, [m]."""
    # The gradient lacks the directions that are solved already; noise has all of them.
    drawn = noise(x)
    size = norms(gradient).clamp_min(torch.finfo(x.dtype).tiny)[:, None]
    start = gradient / size + drawn / norms(drawn)[:, None]
    value = largest_curvatures(oracle.hessian(x, theta), start, _ROUNDS, _MARGIN)
    return (_MARGIN * value).clamp_min(mu)

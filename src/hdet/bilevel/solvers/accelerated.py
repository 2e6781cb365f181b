"""Accelerated gradient descent for the lower level, with momentum that is really there.

Nesterov's method for strongly convex functions, momentum (sqrt(L) - sqrt(mu)) / (sqrt(L) +
sqrt(mu)). L starts from power iterations on the Hessian where the solve begins, and rises where
gradients prove it too small; a sample whose gradient then, or by its momentum, points back
along its way restarts (O'Donoghue and Candes' gradient test).
"""

import torch
from torch import Tensor

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
        # Lipschitz: gradients differ by at most L times the way between them.
        way = norms(ahead - point)
        ratio = torch.where(way > 0, norms(new_gradient - gradient) / way, 0.0)
        noise = 64 * torch.finfo(x.dtype).eps * norms(gradient)
        low = (ratio > smoothness) & (norms(new_gradient - gradient) > noise)
        smoothness = torch.where(low, _MARGIN * ratio, smoothness)
        x = torch.where(low[:, None], ahead, new)
        point, gradient = ahead, new_gradient
    return Solution(point, norms(gradient) / mu, ending, progress.iterations)


def _largest_curvature(
    oracle: Oracle, theta: Tensor, x: Tensor, start: Tensor, mu: float
) -> Tensor:
    """Return L of each sample at x by power iteration from the gradient, [m]."""
    product = oracle.hessian(x, theta)
    # Gradients lack the directions that are solved already; noise of our own has all.
    generator = torch.Generator(device=x.device).manual_seed(0)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    size = norms(start).clamp_min(torch.finfo(x.dtype).tiny)[:, None]
    v = start / size + noise / norms(noise)[:, None]
    value = torch.zeros_like(norms(v))
    for _ in range(_ROUNDS):
        image = product(v / norms(v)[:, None])
        last, value, v = value, norms(image), image
        if bool((value <= _MARGIN * last).all()):
            break
    return (_MARGIN * value).clamp_min(mu)

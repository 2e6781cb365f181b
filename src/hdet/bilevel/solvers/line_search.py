"""A step along a descent direction of a strongly convex function, for each sample its own.

A step is accepted if it lowers the value enough (Armijo), or if it halves the slope without
raising the value beyond rounding: near the minimum values are noise and slopes are not (Hager
and Zhang's approximate condition). After a refused step the next is where the secant of the
slopes has its zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..oracle import dots

_ENOUGH, _TRIES = 1e-4, 40


def line_search(
    lower: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    value: Tensor,
    gradient: Tensor,
    direction: Tensor,
    active: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, h and its gradient after a step of each active sample.

    `lower` computes h, [m], and its gradient, [m, n]; `value` and `gradient` are those at x.
    The first step is the whole direction.
    """
    slope = dots(gradient, direction)
    noise = 8 * torch.finfo(x.dtype).eps * value.abs()
    step = active.to(x.dtype)
    for _ in range(_TRIES):
        there = x + step[:, None] * direction
        new_value, new_gradient = lower(there)
        new_slope = dots(new_gradient, direction)
        lower_enough = new_value <= value + _ENOUGH * step * slope
        flat = (new_slope.abs() <= -slope / 2) & (new_value <= value + noise)
        refused = active & ~(lower_enough | flat)
        if not bool(refused.any()):
            return there, new_value, new_gradient
        zero = slope / (slope - new_slope)
        shrink = torch.where(new_slope > 0, zero.clamp(0.1, 0.5), 0.5)
        step = torch.where(refused, step * shrink, step)
    return x, value, gradient

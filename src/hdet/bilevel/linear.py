"""Conjugate gradients on every sample's H q = b at once, and power iterations.

Each sample has its own step sizes; one that has reached its tolerance stands still. If all
right-hand sides are zero, so is the solution, at no cost. The curvatures that conjugate
gradients see anyway are compared with mu: a smaller one proves mu wrong.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from ..errors import where
from ..seeding import unkeyed
from .oracle import NonFiniteError, dots, norms

Product = Callable[[Tensor], Tensor]


class Ending(str, Enum):
    """Why a solver of the lower level, or of a linear system, stopped."""

    __str__ = str.__str__

    MET = "its tolerance is met"
    FLOOR = "the floating-point type allows no more"
    ITERATIONS = "its iterations are spent"


class CurvatureError(ValueError):
    """The lower level is less convex than `mu` says."""


@dataclass(frozen=True)
class LinearSolution:
    """What conjugate gradients return: q, and the |H q - b| that was reached."""

    solution: Tensor  # [m, n]
    residual: Tensor  # [m]
    ending: Ending
    iterations: int


def conjugate_gradients(
    product: Product,
    right: Tensor,
    tolerance: Tensor | float,
    *,
    mu: float,
    start: Tensor | None = None,
    max_iterations: int | None = None,
) -> LinearSolution:
    """Solve H q = b for each row of b.

    Args:
        product: v -> H v for [m, n], H of each sample symmetric with eigenvalues >= mu.
        right: b, [m, n].
        tolerance: the allowed |H q - b|, a number or [m]; not 0 where b is not.
        mu: the strong convexity.
        start: the first q; None is zero, and saves a product.
        max_iterations: None is ten times n.

    Returns:
        The solution, and the residual that was reached.

    Raises:
        CurvatureError: if some v has <v, H v> < mu |v|^2 beyond rounding.
        NonFiniteError: if some <v, H v> is not finite.
    """
    rows, size = right.shape
    limit = 10 * size if max_iterations is None else max_iterations
    wanted = torch.as_tensor(tolerance, dtype=right.dtype, device=right.device).expand(rows)
    zero = norms(right) == 0
    q = torch.zeros_like(right) if start is None else start.masked_fill(zero[:, None], 0.0)
    residual = right - product(q) if bool(q.any()) else right.clone()
    iterate = _for_one if rows == 1 else _for_many
    q, left, iterations = iterate(product, q, residual, wanted, mu, limit)
    # Near the limits of the type the recursion drifts away from the true residual.
    near = wanted < torch.finfo(right.dtype).eps ** 0.5 * norms(right)
    if iterations and bool(near.any()):
        left = norms(right - product(q))
    ending = Ending.ITERATIONS if iterations == limit else Ending.FLOOR
    if bool((left <= wanted).all()):
        ending = Ending.MET
    return LinearSolution(q, left, ending, iterations)


def _for_many(
    product: Product, q: Tensor, residual: Tensor, wanted: Tensor, mu: float, limit: int
) -> tuple[Tensor, Tensor, int]:
    """Return q, |H q - b| by its recursion, [m], and the number of iterations."""
    left = norms(residual)
    direction, square = residual, left.square()
    iterations = 0
    while iterations < limit and not bool((left <= wanted).all()):
        iterations += 1
        active = left > wanted
        image = product(direction)
        curvature = dots(direction, image)
        _check_curvature(curvature, direction, image, mu, active)
        # Where squares underflow the curvature is 0, and there is no step to take.
        step = torch.where(active & (curvature != 0), square / curvature, 0.0)[:, None]
        q = q + step * direction
        residual = residual - step * image
        left = norms(residual)
        last, square = square, left.square()
        turn = torch.where(active, square / last, 0.0)[:, None]
        direction = torch.where(active[:, None], residual + turn * direction, direction)
    return q, left, iterations


def _for_one(
    product: Product, q: Tensor, residual: Tensor, wanted: Tensor, mu: float, limit: int
) -> tuple[Tensor, Tensor, int]:
    """Do the same for m = 1 with step sizes that are Python numbers, and fewer tensors."""

    def squared(v: Tensor) -> float:
        return float(torch.vdot(v[0], v[0]))

    goal = float(wanted)
    direction, square = residual.clone(), squared(residual)
    iterations = 0
    while iterations < limit and not square**0.5 <= goal:
        iterations += 1
        image = product(direction)
        curvature = float(torch.vdot(direction[0], image[0]))
        if not curvature >= mu * squared(direction):
            _check_curvature(dots(direction, image), direction, image, mu, wanted >= 0)
        if not curvature:
            # Squares underflow, and there is no step to take.
            break
        step = square / curvature
        q = torch.add(q, direction, alpha=step)
        residual.sub_(image, alpha=step)
        last, square = square, squared(residual)
        direction = torch.add(residual, direction, alpha=square / last)
    return q, q.new_full((1,), square**0.5), iterations


def _check_curvature(
    curvature: Tensor, direction: Tensor, image: Tensor, mu: float, active: Tensor
) -> None:
    """Raise if curvature = <v, H v> < mu |v|^2 for an active sample, beyond rounding."""
    square = dots(direction, direction)
    noise = 64 * torch.finfo(image.dtype).eps * norms(direction) * norms(image)
    # Negated, so that NaN counts as wrong.
    wrong = active & ~(curvature >= mu * square * (1 - 1e-6) - noise)
    if bool(wrong.any()):
        seen = float((curvature / square)[wrong].min())
        if not math.isfinite(seen):
            raise NonFiniteError(
                f"{where()}a second derivative of `Problem(lower=...)` is not finite: check "
                f"that its gradient in x can be differentiated wherever a solver may come."
            )
        raise CurvatureError(
            f"{where()}`Problem(mu={mu:.6g})` is contradicted: the lower level has a curvature "
            f"of {seen:.6g} in one direction; give a mu that holds, or add a ridge."
        )


def largest_curvatures(product: Product, start: Tensor, rounds: int, growth: float) -> Tensor:
    """Return |H| of each sample by power iteration, from below, [m].

    Stops after `rounds`, or once no value grows by more than the factor `growth`.
    """
    v, value = start, torch.zeros_like(norms(start))
    for _ in range(rounds):
        v = product(v / norms(v).clamp_min(torch.finfo(v.dtype).tiny)[:, None])
        last, value = value, norms(v)
        if bool((value <= growth * last).all()):
            break
    return value


def noise(like: Tensor) -> Tensor:
    """Return normal numbers like a tensor, the same each time: where power iterations start."""
    generator = unkeyed(0, like.device)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)

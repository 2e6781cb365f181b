"""Conjugate gradients on every sample's H q = b at once, and largest singular values.

Samples have step lengths of their own; one that has reached its tolerance stands still. A
right-hand side of zero has the solution zero, and costs nothing if all are. The curvature that
CG sees anyway is held against mu: less of it proves mu wrong.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import where
from .endings import Ending
from .oracle import NonFiniteError, dots, norms

Product = Callable[[Tensor], Tensor]


class CurvatureError(ValueError):
    """The lower level is less convex than `mu` says."""


@dataclass(frozen=True)
class LinearSolution:
    """What conjugate gradients return.

    Attributes:
        solution: q, [m, n].
        residual: |H q - b| of each sample, [m].
        ending: why they stopped.
        iterations: how many there were.
    """

    solution: Tensor
    residual: Tensor
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
        tolerance: allowed |H q - b|, a number or [m]; not 0 where b is not.
        mu: strong convexity.
        start: first q; None is zero, and saves a product.
        max_iterations: None is ten times n.

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
    # Its recursion drifts from the true residual near the limits of the type.
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
        check_curvature(curvature, direction, image, mu, active)
        # Where squares underflow there is no curvature, and no way on.
        length = torch.where(active & (curvature != 0), square / curvature, 0.0)[:, None]
        q = q + length * direction
        residual = residual - length * image
        left = norms(residual)
        last, square = square, left.square()
        turn = torch.where(active, square / last, 0.0)[:, None]
        direction = torch.where(active[:, None], residual + turn * direction, direction)
    return q, left, iterations


def _for_one(
    product: Product, q: Tensor, residual: Tensor, wanted: Tensor, mu: float, limit: int
) -> tuple[Tensor, Tensor, int]:
    """Do the same for m = 1, where step lengths are plain numbers and tensors few."""
    goal = float(wanted)
    direction, square = residual.clone(), _square(residual)
    iterations = 0
    while iterations < limit and not square**0.5 <= goal:
        iterations += 1
        image = product(direction)
        curvature = float(torch.vdot(direction[0], image[0]))
        if not curvature >= mu * _square(direction):
            check_curvature(dots(direction, image), direction, image, mu, wanted >= 0)
        if not curvature:
            # Squares underflow: there is no way on.
            break
        length = square / curvature
        q = torch.add(q, direction, alpha=length)
        residual.sub_(image, alpha=length)
        last, square = square, _square(residual)
        direction = torch.add(residual, direction, alpha=square / last)
    return q, q.new_full((1,), square**0.5), iterations


def _square(x: Tensor) -> float:
    return float(torch.vdot(x[0], x[0]))


def check_curvature(
    curvature: Tensor, direction: Tensor, image: Tensor, mu: float, active: Tensor
) -> None:
    """Raise if <v, H v> < mu |v|^2 for a sample, beyond what rounding explains.

    Args:
        curvature: <v, H v>, [m].
        direction: v, [m, n].
        image: H v, [m, n].
        mu: strong convexity.
        active: which samples to look at, [m].

    Raises:
        CurvatureError: naming both numbers.
        NonFiniteError: if the curvature is not finite.
    """
    square = dots(direction, direction)
    noise = 64 * torch.finfo(image.dtype).eps * norms(direction) * norms(image)
    # Not the other way round: what is not finite is wrong.
    wrong = active & ~(curvature >= mu * square * (1 - 1e-6) - noise)
    if bool(wrong.any()):
        seen = float((curvature / square)[wrong].min())
        if not math.isfinite(seen):
            raise NonFiniteError(
                f"{where()}a second derivative of `Problem(lower=...)` is not finite: see that "
                f"its gradient in x can be differentiated wherever a solver may come."
            )
        raise CurvatureError(
            f"`Problem(mu={mu:.6g})` is contradicted: the lower level has a curvature of "
            f"{seen:.6g} in a direction that was met: give a mu that holds, or add a ridge."
        )


def largest_singular_value(
    product: Product, transposed: Product, start: Tensor, *, rounds: int = 20
) -> float:
    """Return |A| by power iteration on A^T A, from below; stops once it grows by under 1 %.

    Args:
        product: v -> A v.
        transposed: u -> A^T u.
        start: first v; not zero.
        rounds: most iterations, each of one product of either kind.
    """
    v, value = start / torch.linalg.vector_norm(start), 0.0
    for _ in range(rounds):
        image = product(v)
        new = float(torch.linalg.vector_norm(image))
        if new <= 1.01 * value:
            return max(new, value)
        value = new
        back = transposed(image)
        size = torch.linalg.vector_norm(back)
        if not bool(size > 0):
            return value
        v = back / size
    return value

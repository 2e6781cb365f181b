"""Small bilevel problems whose solutions are known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hdet.bilevel import Problem


@dataclass(frozen=True)
class Quadratic:
    """g = |A1 x - b1|^2 / 2 and h = |A2 x + A3 theta - b2|^2 / 2, with the exact f."""

    problem: Problem
    a1: Tensor
    a2: Tensor
    a3: Tensor
    b1: Tensor
    b2: Tensor

    @property
    def hessian(self) -> Tensor:
        return self.a2.T @ self.a2

    def x(self, theta: Tensor) -> Tensor:
        return torch.linalg.solve(self.hessian, self.a2.T @ (self.b2 - self.a3 @ theta))

    def f(self, theta: Tensor) -> Tensor:
        return (self.a1 @ self.x(theta) - self.b1).square().sum() / 2

    def gradient(self, theta: Tensor) -> Tensor:
        return torch.func.grad(self.f)(theta)


def quadratic(rows: int = 60, size: int = 5, seed: int = 0, **known: object) -> Quadratic:
    """Return section 4.1's problem, small; `known` replaces constants."""
    source = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=source, dtype=torch.float64)

    def noise() -> Tensor:
        return 0.01 * torch.randn(rows, generator=source, dtype=torch.float64)

    a1, a2, a3 = uniform(rows, size), uniform(rows, size), uniform(rows, size)
    b1 = a1 @ uniform(size) + noise()
    b2 = a2 @ uniform(size) + a3 @ uniform(size) + noise()
    constants = {
        "mu": float(torch.linalg.eigvalsh(a2.T @ a2)[0]),
        "upper_smoothness": float(torch.linalg.eigvalsh(a1.T @ a1)[-1]),
        "upper_convex": True,
        "jacobian_norm": float(torch.linalg.matrix_norm(a2.T @ a3, 2)),
        "inverse_hessian_lipschitz": 0.0,
        "jacobian_lipschitz": 0.0,
    }
    problem = Problem(
        lambda x: (a1 @ x - b1).square().sum() / 2,
        lambda x, theta: (a2 @ x + a3 @ theta - b2).square().sum() / 2,
        **constants | known,  # pyright: ignore[reportArgumentType]
    )
    return Quadratic(problem, a1, a2, a3, b1, b2)


def start(size: int = 5) -> tuple[Tensor, Tensor]:
    """Return theta0 and x0 of `quadratic`."""
    return torch.ones(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)


def denoising(
    samples: int = 3, size: int = 12, seed: int = 0
) -> tuple[Problem, Tensor, Tensor]:
    """Return smoothed total variation of signals: not quadratic, one x per sample.

    theta holds the logarithms of the penalty's weight and of its smoothing.
    """
    source = torch.Generator().manual_seed(seed)
    clean = torch.randn(samples, 1, generator=source, dtype=torch.float64).cumsum(1)
    steps = torch.randn(samples, size, generator=source, dtype=torch.float64) > 1
    clean = clean + steps.to(torch.float64).cumsum(1)
    noisy = clean + 0.3 * torch.randn(samples, size, generator=source, dtype=torch.float64)

    def lower(x: Tensor, theta: Tensor) -> Tensor:
        jumps = (x.diff(dim=1).square() + (2 * theta[1]).exp()).sqrt()
        return (x - noisy).square().sum(1) / 2 + theta[0].exp() * jumps.sum(1)

    problem = Problem(
        lambda x: (x - clean).square().sum(1) / 2,
        lower,
        mu=1.0,
        upper_smoothness=1.0,
        upper_convex=True,
        samples=True,
    )
    return problem, torch.tensor([-2.0, -2.0], dtype=torch.float64), noisy

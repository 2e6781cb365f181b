"""MAID: the exact loss lies between two bounds, and the accuracy follows what a step gains."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdet.bilevel import Problem, Rules, Step, hypergradient, maid
from hdet.bilevel.bounds import lower_bound, upper_bound

from ..core.plotting import logarithmic
from .drawing import concept

STEPS, FEATURES, RIDGE = 40, 20, 0.05


def draw(folder: Path) -> None:
    """Learn a penalty for each weight of a ridge regression, and draw f, its bounds and eps."""
    source = torch.Generator().manual_seed(0)
    x_train, x_val = (_normal(source, rows, FEATURES) for rows in (40, 200))
    true = (torch.arange(FEATURES) < 5).double()
    y_train, y_val = (x @ true + _normal(source, len(x)) for x in (x_train, x_val))

    def upper(w: Tensor) -> Tensor:
        return (x_val @ w - y_val).square().mean() / 2

    def lower(w: Tensor, theta: Tensor) -> Tensor:
        return (x_train @ w - y_train).square().mean() / 2 + (
            theta.exp() * w.square()
        ).sum() / 2

    problem = Problem(upper, lower, ridge=RIDGE, upper_convex=True)
    smoothness = float(torch.linalg.matrix_norm(x_val, 2) ** 2 / len(x_val))
    exact: list[float] = []
    bounds: list[tuple[float, float]] = []
    eps: list[float] = []

    def record(step: Step, state: dict[str, Any]) -> None:
        theta = state["point"]["theta"]
        w = state["point"]["x"].flatten().requires_grad_()
        g, h = upper(w), lower(w, theta) + RIDGE / 2 * w.square().sum()
        slope, rest = (torch.autograd.grad(level, w)[0].norm() for level in (g, h))
        about = g.detach(), slope, rest / RIDGE
        low = lower_bound(*about, smoothness, convex=True)
        bounds.append((low, upper_bound(*about, smoothness)))
        exact.append(hypergradient(problem, theta, w.detach(), accuracy=1e-10).upper)
        eps.append(step.accuracy)

    zeros = torch.zeros(FEATURES).double()
    # A first accuracy that is far too coarse, so that it can be seen to tighten.
    maid(
        problem,
        zeros - 3,
        zeros,
        accuracy=1.0,
        max_steps=STEPS,
        rules=Rules.paper(relax=1.25),
        solver="accelerated-gradient",
        callback=record,
    )
    steps = range(1, len(exact) + 1)
    with concept(
        folder, "maid", 4.0, "The loss, what is certain of it, and the accuracy"
    ) as fig:
        top, bottom = fig.subplots(2, 1, sharex=True)
        low, high = zip(*bounds, strict=True)
        top.fill_between(steps, low, high, alpha=0.5, label="between Lo and U", color="C1")
        top.plot(steps, exact, color="black", linewidth=1, label="exact f")
        top.set_ylabel("upper level f")
        top.legend()
        bottom.plot(steps, eps, color="C1")
        logarithmic(bottom)
        bottom.set(xlabel="outer step", ylabel="accuracy asked for")


def _normal(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=source, dtype=torch.float64)

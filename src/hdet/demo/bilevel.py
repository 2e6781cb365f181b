"""The bilevel demo: a penalty for each feature by MAID, beside grid search at equal cost.

Logistic regression on scikit-learn's digits, among whose 64 pixels stand as many useless ones:
the same pixels, shuffled among the images. One penalty for all cannot tell them apart, and no
grid covers 128 penalties; MAID moves them all down one hypergradient. Cost counts lower-level
gradients, Hessian-vector products and mixed products alike.
"""

import math
from collections.abc import Callable
from itertools import count

import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..bilevel import Problem, Step, hypergradient, maid
from ..report import Page, Panel, Run
from ..seeding import generator
from .showing import beside, shown, summary

TRAIN, JUDGE = 400, 400  # images; the others test
BUDGET = 4000
STARTS = {"from 0.0001": 1e-4, "from 0.01": 1e-2, "from 1": 1.0}
LEAST, LARGEST = 1e-5, 1.0  # penalties of the grid
VALIDATION = "validation loss"


class Digits:
    """The two levels, and the test: x are weights [128, 10], theta log penalties [128, 1]."""

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "demo", "digits")
        pixels, labels = map(torch.tensor, load_digits(return_X_y=True))
        useless = torch.stack([p[torch.randperm(len(p), generator=draw)] for p in pixels.T], 1)
        order = torch.randperm(len(labels), generator=draw)
        x, y = torch.cat([pixels, useless], 1)[order].double() / 16, labels[order]
        self.judge = x[TRAIN : TRAIN + JUDGE], y[TRAIN : TRAIN + JUDGE]
        self.test = x[TRAIN + JUDGE :], y[TRAIN + JUDGE :]
        self.x0 = x.new_zeros(x.shape[1], 10)

        def lower(weights: Tensor, theta: Tensor) -> Tensor:
            penalty = (theta.clamp(max=20).exp() * weights.square()).sum() / 2
            return cross_entropy(x[:TRAIN] @ weights, y[:TRAIN]) + penalty

        def upper(weights: Tensor) -> Tensor:
            return cross_entropy(self.judge[0] @ weights, self.judge[1])

        self.problem = Problem(upper, lower, ridge=1e-5, upper_convex=True)

    def theta(self, penalty: float) -> Tensor:
        """Return the same penalty for all features."""
        return self.x0.new_full((len(self.x0), 1), penalty).log()

    def losses(self, theta: Tensor) -> tuple[float, float]:
        """Return validation and test loss at an exact solution, which is not counted."""
        solved = hypergradient(self.problem, theta, self.x0, accuracy=1e-5)
        return solved.upper, float(cross_entropy(self.test[0] @ solved.x, self.test[1]))


def run(console: Console, seed: int, length: float = 1.0) -> Page:
    """Run the demo, show it on the way, and return what it has shown."""
    # The numbers must not depend on how many cores a machine has.
    torch.set_num_threads(1)
    digits, budget, thetas = Digits(seed), round(BUDGET * length), []
    runs = [Run("MAID", start, ours=True) for start in STARTS]
    runs.append(Run("grid search", "one for all", ours=False))
    with shown(console, "Penalties for 128 features", runs, budget, "cost") as draw:
        for one, penalty in zip(runs, STARTS.values(), strict=False):

            def seen(step: Step, _: object, one: Run = one) -> None:
                one.add(step.cost, {VALIDATION: step.value})
                draw()

            result = maid(
                digits.problem,
                digits.theta(penalty),
                digits.x0,
                budget=budget,
                max_steps=budget,
                callback=seen,
            )
            thetas.append(result.theta)
        thetas.append(_search(digits, runs[-1], budget, draw))
    losses = [digits.losses(theta) for theta in thetas]
    for one, theta, (validation, test) in zip(runs, thetas, losses, strict=True):
        medians = [f"{float(half.exp().median()):.2g}" for half in theta.chunk(2)]
        one.cells = [*medians, f"{validation:.3f}", f"{test:.3f}", beside(test, losses[-1][1])]
        against = f"{one.cells[-1]} relative to grid search"
        one.sentence = f"{one.name}, ended at a test loss of {test:.3f}: {against}."
    return Page(
        title="A penalty for each feature, beside one penalty for all, at equal cost",
        runs=runs,
        panels=[Panel(VALIDATION)],
        x_title="cost: lower-level gradients and products",
        header=["run", "pixels", "useless", "validation", "test loss", "vs grid search"],
        closing=summary("Test loss, compared with grid search", runs[:-1]),
        setting=(
            f"Logistic regression on {TRAIN} digits of scikit-learn, whose 64 pixels stand "
            f"among 64 useless features; {JUDGE} are the validation, the others the test; seed "
            f"{seed}. MAID moves a penalty for each feature, all of which start at the same. "
            f"Grid search tries one for all, from {LEAST:g} to {LARGEST:g}. Shown are medians "
            f"of the penalties that were chosen; losses are nats. MAID fits the validation "
            f"images: the test loss judges."
        ),
    )


def _search(digits: Digits, grid: Run, budget: int, draw: Callable[[], None]) -> Tensor:
    """Try single penalties on a grid whose gaps are halved in turn, as long as the budget."""
    best, x, cost = (math.inf, LARGEST), digits.x0, 0
    for number in count(1):
        # The digits of the number behind the binary point: 1/2, 1/4, 3/4, 1/8 ...
        share = int(f"{number:b}"[::-1], 2) / 2 ** number.bit_length()
        penalty = LARGEST * (LEAST / LARGEST) ** share
        solved = hypergradient(
            digits.problem, digits.theta(penalty), x, accuracy=1e-2, solver="lbfgs"
        )
        # L-BFGS needs gradients alone; what else was counted was for the hypergradient.
        cost, x = cost + solved.counts.gradients, solved.x
        if cost > budget:
            return digits.theta(best[1])
        best = min(best, (solved.upper, penalty))
        grid.add(cost, {VALIDATION: best[0]})
        draw()
    raise AssertionError

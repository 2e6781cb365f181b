"""Four bilevel problems that run in seconds, of the kinds that the MAID paper has.

    quadratic   A: two quadratic levels, all constants known; 10 parameters
    logistic    B: scikit-learn's digits, one penalty for each of 640 weights
    tv          C: 8 images, smoothed total variation; 2 parameters
    foe         D: 4 images, fields of experts of 8 filters, 5 x 5; 217 parameters

Images are crops of scikit-image's grey photographs with noise of 0.1, in float64 as all else;
those that test what was learned are cut from photographs that none was learned from.

Source: arXiv 2308.10098, section 4, at a size for two cores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hdet.bilevel import Problem, hypergradient
from hdet.bilevel.denoising import field_start, fields_of_experts, psnr, smoothed_tv
from hdet.seeding import generator

from ..core.failures import MissingDataError

_DOUBLE = torch.float64
_NOISE = 0.1
# Accuracy of the x at which results are evaluated, whatever accuracy they were found with.
_EXACT = 1e-7


@dataclass(frozen=True)
class Task:
    """A bilevel problem with its start, and how a result is evaluated.

    Attributes:
        name: one of `TASKS`.
        title: the problem in a line.
        problem: the two levels.
        theta0: where to begin.
        x0: where the first lower-level solve begins.
        step: first step of every method; None: each method's default, free of scale.
        relax: nu-bar, as the paper has it for this problem.
        measures: (theta, exact x) to further measures of a result, by name: `test_loss` and
            more; PSNR in decibels, accuracy in percent.
        residuals: x to [k], whose squares add up to f; None where there are many parameters.
    """

    name: str
    title: str
    problem: Problem
    theta0: Any
    x0: Any
    step: float | None
    relax: float
    measures: Callable[[Any, Any], dict[str, float]]
    residuals: Callable[[Any], Tensor] | None = None

    def evaluate(self, theta: Any, x: Any) -> dict[str, float]:
        """Return upper-level loss and further measures at the exact lower-level solution.

        Args:
            theta: what was learned.
            x: the lower level's solution there, as exact as the method had it.
        """
        exact = hypergradient(self.problem, theta, x, accuracy=_EXACT)
        return {"loss": exact.upper, **self.measures(theta, exact.x)}


def quadratic(seed: int) -> Task:
    """Return problem A: g = |A1 x - b1|^2 / 2, h = |A2 x + A3 theta - b2|^2 / 2.

    The entries of A1, A2, A3, x1, x2 and theta* are uniform in [0, 1]; b1 = A1 x1 + noise,
    b2 = A2 x2 + A3 theta* + noise, noise of 0.01.
    """
    source = generator(seed, 0, "bilevel-quadratic")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=source, dtype=_DOUBLE)

    def noise(rows: int) -> Tensor:
        return 0.01 * torch.randn(rows, generator=source, dtype=_DOUBLE)

    rows, size = 1000, 10
    a1, a2, a3 = (uniform(rows, size) for _ in range(3))
    b1 = a1 @ uniform(size) + noise(rows)
    b2 = a2 @ uniform(size) + a3 @ uniform(size) + noise(rows)
    problem = Problem(
        lambda x: (a1 @ x - b1).square().sum() / 2,
        lambda x, theta: (a2 @ x + a3 @ theta - b2).square().sum() / 2,
        mu=float(torch.linalg.matrix_norm(a2, -2)) ** 2,
        upper_smoothness=float(torch.linalg.matrix_norm(a1, 2)) ** 2,
        upper_convex=True,
        jacobian_norm=float(torch.linalg.matrix_norm(a2.T @ a3, 2)),
        inverse_hessian_lipschitz=0.0,
        jacobian_lipschitz=0.0,
    )
    title = "quadratic levels, 1000 x 10"
    start, x0 = torch.ones(size, dtype=_DOUBLE), torch.zeros(size, dtype=_DOUBLE)
    return Task(
        "quadratic",
        title,
        problem,
        start,
        x0,
        step=0.01,
        relax=1.25,
        measures=lambda *_: {},
        residuals=lambda x: (a1 @ x - b1) / 2**0.5,
    )


def logistic(seed: int) -> Task:
    """Return problem B: cross entropy + sum exp(theta) W^2 / 2 on 902 digits, g on 445.

    450 digits test the result. A ridge of 1e-3 stays where the learned weights vanish.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDataError(
            "Task logistic needs scikit-learn's digits: pip install scikit-learn."
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=_DOUBLE), torch.tensor(labels)
    order = torch.randperm(len(y), generator=generator(seed, 0, "bilevel-digits"))
    train, validation, test = order[:902], order[902:1347], order[1347:]
    cross_entropy = functional.cross_entropy

    def lower(weights: Tensor, theta: Tensor) -> Tensor:
        penalty = (theta.clamp(max=20).exp() * weights.square()).sum() / 2
        return cross_entropy(x[train] @ weights, y[train]) + penalty

    def measures(theta: Tensor, weights: Tensor) -> dict[str, float]:
        scores = x[test] @ weights
        right = (scores.argmax(1) == y[test]).double().mean()
        loss = float(cross_entropy(scores, y[test]))
        return {"test_loss": loss, "test_accuracy": 100 * float(right)}

    problem = Problem(
        lambda weights: cross_entropy(x[validation] @ weights, y[validation]),
        lower,
        ridge=1e-3,
        mu=lambda theta: float(theta.clamp(max=20).min().exp()),
        upper_convex=True,
    )
    title = "digits, a penalty for each of 640 weights"
    start = torch.full((64, 10), -3.0, dtype=_DOUBLE)
    zeros = torch.zeros(64, 10, dtype=_DOUBLE)
    return Task("logistic", title, problem, start, zeros, None, 1.05, measures)


def tv(seed: int) -> Task:
    """Return problem C: total variation on 8 crops of 32 x 32."""
    start = {"weight": torch.tensor(-5.0), "smoothing": torch.tensor(-5.0)}
    start = {name: value.to(_DOUBLE) for name, value in start.items()}
    title = "total variation, 8 images of 32 x 32"
    return _denoising("tv", title, smoothed_tv, start, 8, seed)


def foe(seed: int) -> Task:
    """Return problem D: fields of experts on 4 crops of 32 x 32."""
    title = "fields of experts, 4 images of 32 x 32"
    return _denoising("foe", title, fields_of_experts, field_start(8, 5, seed), 4, seed)


TASKS: dict[str, Callable[[int], Task]] = {
    "quadratic": quadratic,
    "logistic": logistic,
    "tv": tv,
    "foe": foe,
}


def _denoising(
    name: str, title: str, lower: Callable[..., Tensor], start: Any, count: int, seed: int
) -> Task:
    clean, noisy, test_clean, test_noisy = crops(count, 32, seed)

    def problem(clean: Tensor, noisy: Tensor) -> Problem:
        return Problem(
            lambda u: (u - clean).square().sum((1, 2)) / 2,
            lambda u, theta: lower(u, noisy, theta),
            mu=1.0,
            upper_smoothness=1.0,
            upper_convex=True,
            samples=True,
        )

    def measures(theta: Any, u: Tensor) -> dict[str, float]:
        # The lower level denoises, and does not look at the clean images.
        test = problem(test_noisy, test_noisy)
        made = hypergradient(test, theta, test_noisy, accuracy=1e-4).x
        return {
            "psnr": float(psnr(u, clean).mean()),
            "test_loss": float((made - test_clean).square().sum((1, 2)).mean()) / 2,
            "test_psnr": float(psnr(made, test_clean).mean()),
            "noisy_psnr": float(psnr(noisy, clean).mean()),
            "noisy_test_psnr": float(psnr(test_noisy, test_clean).mean()),
        }

    return Task(
        name,
        title,
        problem(clean, noisy),
        start,
        noisy,
        step=None,
        relax=1.05,
        measures=measures,
        residuals=(lambda u: (u - clean) / (2 * count) ** 0.5) if name == "tv" else None,
    )


def crops(count: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return clean and noisy crops to learn from, and as many to test, [count, size, size]."""
    source = generator(seed, 0, "bilevel-crops")
    made = []
    for photographs in _photographs():
        crops = []
        for i in range(count):
            photograph = photographs[i % len(photographs)]
            top, left = (
                int(torch.randint(length - size, (), generator=source))
                for length in photograph.shape
            )
            crops.append(photograph[top : top + size, left : left + size])
        clean = torch.stack(crops)
        noise = torch.randn(clean.shape, generator=source, dtype=_DOUBLE)
        made += [clean, clean + _NOISE * noise]
    return made[0], made[1], made[2], made[3]


def _photographs() -> tuple[list[Tensor], list[Tensor]]:
    """Return photographs to learn from, and to test."""
    try:
        from skimage import color, data
    except ImportError as error:
        raise MissingDataError(
            "Tasks tv and foe need scikit-image's photographs: pip install scikit-image."
        ) from error
    grey = [data.camera, data.coins, data.moon, data.brick, data.grass, data.gravel]
    colour = [data.astronaut, data.chelsea, data.coffee, data.rocket]
    return (
        [torch.tensor(image() / 255, dtype=_DOUBLE) for image in grey],
        [torch.tensor(color.rgb2gray(image()), dtype=_DOUBLE) for image in colour],
    )

"""Penalties learned by MAID, from the best single one."""

import math

import torch
from torch import Tensor

from ..maid import maid
from ..result import Result
from .cross_entropy import CrossEntropy

# Of the best single penalty; the rest of it is learned.
_RIDGE = 0.5


def first_penalties(
    data: CrossEntropy, judge: Tensor, kind: str, ridge: float | None, start: float | None
) -> tuple[float, Tensor, Tensor]:
    """Return the ridge, theta_0 and the folds' weights to begin with.

    Args:
        data: the examples.
        judge: ones where an example judges, [m, n].
        kind: "weight", "feature", "class" or "one".
        ridge: the user's; None is half of the best single penalty.
        start: the user's theta; None makes the ridge up to the best single penalty.
    """
    single, weights = data.single(1 - judge, judge)
    ridge = _RIDGE * single if ridge is None else ridge
    if start is None:
        # Where the ridge alone is too large, what is learned begins small beside it.
        start = math.log(max(single - ridge, (1 - _RIDGE) * single))
    features = weights.shape[1] - 1
    shape = {
        "weight": (features, data.columns),
        "feature": (features, 1),
        "class": (1, data.columns),
        "one": (1, 1),
    }[kind]
    return ridge, weights.new_full(shape, start), weights


def learn(
    data: CrossEntropy,
    judge: Tensor,
    theta0: Tensor,
    weights: Tensor,
    ridge: float,
    *,
    width: float,
    max_steps: int,
    tolerance: float,
    budget: int | None,
) -> Result:
    """Return MAID's result on the folds.

    Args:
        data: the examples.
        judge: ones where an example judges, [m, n].
        theta0: of `first_penalties`, and the prior's mean.
        weights: where the first lower level begins.
        ridge: gamma > 0.
        width: of the prior.
        max_steps: as `maid`'s.
        tolerance: likewise.
        budget: likewise.
    """
    train = 1 - judge
    problem = data.problem(theta0, ridge, width, train, judge)
    x0 = [weights, torch.zeros(len(train), *theta0.shape, dtype=theta0.dtype)]
    return maid(problem, theta0, x0, max_steps=max_steps, tolerance=tolerance, budget=budget)

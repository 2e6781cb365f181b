"""What old updates tell of the rate: evidence that is scored some steps later.

After the search Explorer asks whether new gradients still want what an older update did. Here
the same is asked at several lags. A plain run is cut into intervals of five steps. With u_j the
displacement of the weights in interval j, and g_i the mean gradient of interval i, the evidence
at lag k is the cosine

    -<g_i, u_{i-k}> / (|g_i| |u_{i-k}|),

positive where a larger rate would have been better for the loss k intervals later. A rate is
*asked to rise* where the mean over part of a run is above zero by two standard errors. Good
evidence asks rates below the best one to rise, and no others.
"""

import math
import statistics
from collections import deque

import torch
from torch import Tensor

from ..robustness.loop import train
from ..robustness.problems import (
    PROBLEMS,
    load,
    make_schedule,
    new_model,
    new_optimizer,
    parameter_groups,
)
from ..tasks import Batch

INTERVAL = 5
LAGS = [1, 2, 5, 10, 20]  # intervals
MULTIPLES = [10 ** (k / 2) for k in range(-2, 3)]  # of the best rate
PART = (0.1, 0.3)  # of a run, in which it is read


def cosines(name: str, rate: float, seed: int) -> dict[int, list[float]]:
    """Return, by lag in steps, the cosines that a plain run at a peak rate gives."""
    problem = PROBLEMS[name]
    task = load(problem)
    model = new_model(task, seed)
    optimizer = new_optimizer(problem, parameter_groups(problem, task, model), rate)
    schedule = make_schedule(optimizer, problem, rate)
    trained = [p for p in model.parameters() if p.requires_grad]
    found: dict[int, list[float]] = {INTERVAL * lag: [] for lag in LAGS}
    moves: deque[Tensor] = deque(maxlen=max(LAGS))
    before, gradient, steps = _flat(trained), torch.zeros(()), 0

    def step(loss: Tensor, batch: Batch) -> None:
        nonlocal before, gradient, steps
        gradient = gradient + _flat([p.grad for p in trained if p.grad is not None])
        optimizer.step()
        steps += 1
        if steps % INTERVAL:
            return
        for lag in LAGS:
            if len(moves) >= lag and PART[0] < steps / problem.steps <= PART[1]:
                move = moves[-lag]
                cosine = -(gradient @ move) / (gradient.norm() * move.norm())
                found[INTERVAL * lag].append(float(cosine))
        now = _flat(trained)
        moves.append(now - before)
        before, gradient = now, torch.zeros(())

    def after(loss: float) -> None:
        schedule.step()

    train(problem, task, seed, model, optimizer, after, step=step)
    return found


def asked_to_rise(cosines: list[float]) -> bool:
    """Return whether the evidence is above zero by two standard errors."""
    finite = [cosine for cosine in cosines if math.isfinite(cosine)]
    if len(finite) < 2:
        return False
    error = statistics.stdev(finite) / len(finite) ** 0.5
    return statistics.fmean(finite) > 2 * error


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])

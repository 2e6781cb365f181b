"""Methods that move the rate by what the training loss or the gradients tell.

Those whose sources name several settings have the ones that served them best on `digits`; they
are the same on all problems. Each takes `lr` for its start.

- reduce-on-plateau: `torch.optim.lr_scheduler.ReduceLROnPlateau`
- greedylr: arXiv 2512.14527; `GreedyLR` of Hugging Face transformers 5.23
- hypergradient: Baydin et al., arXiv 1703.04782, the multiplicative rule
"""

import math
from collections import deque

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ...tasks import Batch, Task
from .. import problems
from ..loop import train
from ..problems import Outcome, Problem
from .training import ScaledSchedule, begin

PLATEAU_READINGS = 40  # a run, each the mean loss of its window
PLATEAU_PATIENCE = 3
GREEDY_FACTOR, GREEDY_PATIENCE, GREEDY_WINDOW = 0.9, 2, 10
GREEDY_RANGE = 100.0
HYPER_LR = 0.1


def reduce_on_plateau(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train at a constant `lr` that is cut to a tenth where the training loss stalls.

    A reading is the mean loss of 1/40 of the run, since a single batch's loss says nothing of
    a plateau. torch's defaults apply (factor 0.1, relative threshold 1e-4) but for patience:
    10 of 40 readings would leave time for three cuts at most, mostly too late; here it is 3,
    which on `digits`, seeds 0 and 1, is as good as or better than 1 and 10 from most starts.
    """
    model, optimizer = begin(problem, task, lr, seed)
    schedule = ReduceLROnPlateau(optimizer, patience=PLATEAU_PATIENCE)
    window, losses = max(1, problem.steps // PLATEAU_READINGS), []

    def after(loss: float) -> None:
        losses.append(loss)
        if len(losses) == window:
            schedule.step(sum(losses) / window)
            losses.clear()

    return train(problem, task, seed, model, optimizer, after)


class GreedyRule:
    """GreedyLR's rule: raise the rate while the loss falls, lower it when it does not.

    The loss is averaged over the last readings. More than `patience` new bests in a row divide
    the rate by `factor`; more than `patience` readings in a row without one multiply it. Two
    details of the source are left out, since no run here is long enough for them to act: its
    reset after 500 vain reductions at the lower bound, and its least change of 1e-8.

    Attributes:
        rate: the learning rate to use.
    """

    def __init__(self, rate: float) -> None:
        """Start at `rate`; bounds lie `GREEDY_RANGE` times below and above it.

        The source's bounds are absolute, 1e-3 and 1: with its defaults, a start below 1e-3 is
        never lowered, and one above 1 never raised.
        """
        self.rate = rate
        self._bounds = rate / GREEDY_RANGE, rate * GREEDY_RANGE
        self._recent: deque[float] = deque(maxlen=GREEDY_WINDOW)
        self._best = math.inf
        self._good = self._bad = 0

    def step(self, loss: float) -> None:
        """Read one loss, and move `rate` if it is time to."""
        self._recent.append(loss)
        mean = sum(self._recent) / len(self._recent)
        if mean < self._best - 1e-6:
            self._best, self._good, self._bad = mean, self._good + 1, 0
        else:
            self._good, self._bad = 0, self._bad + 1
        if self._good > GREEDY_PATIENCE:
            self.rate, self._good = min(self.rate / GREEDY_FACTOR, self._bounds[1]), 0
        elif self._bad > GREEDY_PATIENCE:
            self.rate, self._bad = max(self.rate * GREEDY_FACTOR, self._bounds[0]), 0


def greedy(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train from a constant `lr` that GreedyLR's rule moves after each step.

    Factor 0.9 and patience 2 are those of the source's fine-tuning example. Each reading is
    the mean of ten steps' losses: a single batch's loss hardly ever sets a best three times in
    a row, so that the rate could only fall. On `digits`, seeds 0 and 1, this ends better from
    low starts than the defaults (0.95 and 10), with and without smoothing over 50 readings.
    """
    model, optimizer = begin(problem, task, lr, seed)
    rule = GreedyRule(lr)

    def after(loss: float) -> None:
        rule.step(loss)
        for group in optimizer.param_groups:
            group["lr"] = rule.rate

    return train(problem, task, seed, model, optimizer, after)


def hypergradient(
    problem: Problem,
    task: Task,
    lr: float,
    seed: int,
    *,
    hyper_lr: float = HYPER_LR,
    first: float = 1.0,
) -> Outcome:
    """Train with the problem's schedule times a factor that hypergradient descent learns.

    The derivative of the loss by the rate is the gradient's inner product with the last update
    per unit of rate. Divided by both norms it is a cosine, free of any scale, and the factor
    grows by `hyper_lr` times it before the step is taken. The paper's rate is constant; here
    it is the schedule times the factor, so that zero `hyper_lr` gives plain DDP. 0.1 was
    the best of 0.002 to 0.1 from low starts on `digits`, seeds 0 and 1, at no cost elsewhere.

    The factor begins at `first`. Below 1 it comes from below, where its evidence is sound: what
    a rate that is too high has done to the weights is not undone by a lower one.
    """
    model, optimizer = begin(problem, task, lr, seed)
    schedule = ScaledSchedule(optimizer, problems.make_schedule(optimizer, problem, lr))
    parameters, factor, last = list(model.parameters()), first, None

    def step(_loss: Tensor, _batch: Batch) -> None:
        nonlocal factor, last
        weights = parameters_to_vector(parameters).detach()
        if last is not None:
            gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            # The last update points against the gradient: so its sign is turned.
            pair = -parameters_to_vector(gradient), weights - last
            factor *= 1 + hyper_lr * float(torch.cosine_similarity(*pair, dim=0, eps=1e-30))
        last = weights
        schedule.scale(factor)
        optimizer.step()

    return train(problem, task, seed, model, optimizer, lambda _: schedule.step(), step=step)

"""The methods that the ensemble is compared with, and what each makes of a start LR.

Each trains one model on the global batch, which is what plain DDP computes; `pbt` has a module
of its own. Each gets its documented settings, or where there are several the ones that served
it best on `digits`; they are the same on all problems. Those that need a start take `lr` for
it; those that are learning-rate free take none, and end the same for each start. Sources:

- reduce-on-plateau: `torch.optim.lr_scheduler.ReduceLROnPlateau`
- greedylr: arXiv 2512.14527; `GreedyLR` of Hugging Face transformers 5.23
- prodigy: Mishchenko and Defazio, arXiv 2306.06101; package prodigyopt
- d-adaptation: Defazio and Mishchenko, arXiv 2301.07733; package dadaptation
- schedule-free: Defazio et al., arXiv 2405.15682; package schedulefree
- hypergradient: Baydin et al., arXiv 1703.04782, the multiplicative rule
"""

import contextlib
import importlib
import io
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from ..tasks import Task
from . import problems
from .pbt import is_read, pbt
from .problems import MOMENTUM, WEIGHT_DECAY, Method, Outcome, Problem

PLATEAU_READINGS = 40  # a run, each the mean loss of its window
PLATEAU_PATIENCE = 3
GREEDY_FACTOR, GREEDY_PATIENCE, GREEDY_WINDOW = 0.9, 2, 10
GREEDY_RANGE = 100.0
HYPER_LR = 0.1


def ddp(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train as plain DDP does: one-cycle with its peak at `lr`."""
    model, optimizer = _start(problem, task, lr, seed)
    schedule = problems.make_schedule(optimizer, problem, lr)
    return _train(problem, task, seed, model, optimizer, lambda _: schedule.step())


def reduce_on_plateau(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train at a constant `lr` that is cut to a tenth where the training loss stalls.

    A reading is the mean loss of 1/40 of the run, since a single batch's loss says nothing of
    a plateau. torch's defaults apply (factor 0.1, relative threshold 1e-4) but for patience:
    10 of 40 readings would leave time for three cuts at most, mostly too late; here it is 3,
    which on `digits`, seeds 0 and 1, is as good as or better than 1 and 10 from most starts.
    """
    model, optimizer = _start(problem, task, lr, seed)
    schedule = ReduceLROnPlateau(optimizer, patience=PLATEAU_PATIENCE)
    window, losses = max(1, problem.steps // PLATEAU_READINGS), []

    def after(loss: float) -> None:
        losses.append(loss)
        if len(losses) == window:
            schedule.step(sum(losses) / window)
            losses.clear()

    return _train(problem, task, seed, model, optimizer, after)


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
    model, optimizer = _start(problem, task, lr, seed)
    rule = GreedyRule(lr)

    def after(loss: float) -> None:
        rule.step(loss)
        for group in optimizer.param_groups:
            group["lr"] = rule.rate

    return _train(problem, task, seed, model, optimizer, after)


def prodigy(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with Prodigy and cosine annealing, as its documentation recommends.

    Its `lr` is a multiplier that is to stay at 1, and d0 at 1e-6: who takes a method without a
    learning rate gives none, so `lr` is not used. It is an Adam also where the problem has SGD.
    """
    del lr
    model = problems.new_model(task, seed)
    groups, decay = _groups(problem, task, model)
    optimizer = _new("prodigyopt", "Prodigy", groups, lr=1.0, weight_decay=decay)
    schedule = CosineAnnealingLR(optimizer, T_max=problem.steps)

    def rate(group: dict) -> float:
        return group["d"] * group["lr"]

    return _train(problem, task, seed, model, optimizer, lambda _: schedule.step(), rate)


def d_adaptation(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with D-Adaptation of AdamW or SGD, under the schedule that the others have.

    Its `lr` is a multiplier that is to stay at 1: `lr` is not used. With SGD the rate that is
    reported is the one of torch's SGD that takes equal steps: (1 - momentum) d / |g0|.
    """
    del lr
    model = problems.new_model(task, seed)
    groups, decay = _groups(problem, task, model)
    if problem.optimizer == "adamw":
        own = {"weight_decay": decay, "decouple": True}
        optimizer = _new("dadaptation", "DAdaptAdam", groups, lr=1.0, **own)
    else:
        optimizer = _new("dadaptation", "DAdaptSGD", groups, lr=1.0, momentum=MOMENTUM)
    schedule = problems.make_schedule(optimizer, problem, 1.0)

    def rate(group: dict) -> float:
        scale = (1 - MOMENTUM) / group["g0_norm"] if "g0_norm" in group else 1.0
        return group["d"] * group["lr"] * scale

    return _train(problem, task, seed, model, optimizer, lambda _: schedule.step(), rate)


def schedule_free(
    problem: Problem, task: Task, lr: float, seed: int, *, sgd_scale: float = 10.0
) -> Outcome:
    """Train with schedule-free AdamW or SGD at `lr`, after 5 % of warm-up.

    The held-out loss is that of the averaged weights. Steps of schedule-free SGD do not build
    up momentum, and its documentation starts at 10 to 50 times the usual rate: `sgd_scale`
    multiplies `lr` by the lower of the two.
    """
    model = problems.new_model(task, seed)
    groups, decay = _groups(problem, task, model)
    adamw = problem.optimizer == "adamw"
    kind = "AdamWScheduleFree" if adamw else "SGDScheduleFree"
    own = {"weight_decay": decay, "warmup_steps": max(1, problem.steps // 20)}
    peak = lr if adamw else lr * sgd_scale
    optimizer: Any = _new("schedulefree", kind, groups, lr=peak, **own)
    optimizer.train()

    def rate(group: dict) -> float:
        return group["scheduled_lr"]

    return _train(problem, task, seed, model, optimizer, rate=rate, finish=optimizer.eval)


def hypergradient(
    problem: Problem, task: Task, lr: float, seed: int, *, hyper_lr: float = HYPER_LR
) -> Outcome:
    """Train with one-cycle times a factor that hypergradient descent learns.

    The derivative of the loss by the rate is the gradient's inner product with the last update
    per unit of rate. Divided by both norms it is a cosine, free of any scale, and the factor
    grows by `hyper_lr` times it before the step is taken. The paper's rate is constant; here
    it is the schedule times the factor, so that zero `hyper_lr` gives plain DDP. 0.1 was
    the best of 0.002 to 0.1 from low starts on `digits`, seeds 0 and 1, at no cost elsewhere.
    """
    model, optimizer = _start(problem, task, lr, seed)
    schedule = problems.make_schedule(optimizer, problem, lr)
    parameters, factor, last = list(model.parameters()), 1.0, None

    def before() -> None:
        nonlocal factor, last
        weights = parameters_to_vector(parameters).detach()
        if last is not None:
            gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            # The last update points against the gradient: so its sign is turned.
            pair = -parameters_to_vector(gradient), weights - last
            factor *= 1 + hyper_lr * float(torch.cosine_similarity(*pair, dim=0, eps=1e-30))
        last = weights
        for group in optimizer.param_groups:
            group["lr"] *= factor  # OneCycleLR sets it anew after each step

    def after(_loss: float) -> None:
        schedule.step()

    return _train(problem, task, seed, model, optimizer, after, before=before)


BASELINES: dict[str, Method] = {
    "ddp": ddp,
    "reduce-on-plateau": reduce_on_plateau,
    "greedylr": greedy,
    "prodigy": prodigy,
    "d-adaptation": d_adaptation,
    "schedule-free": schedule_free,
    "hypergradient": hypergradient,
    "pbt": pbt,
}


def _start(problem: Problem, task: Task, lr: float, seed: int) -> tuple[nn.Module, Optimizer]:
    model = problems.new_model(task, seed)
    return model, problems.new_optimizer(
        problem, problems.parameter_groups(problem, task, model), lr
    )


def _groups(problem: Problem, task: Task, model: nn.Module) -> tuple[list[dict], float]:
    """Return groups and weight decay for a package's optimizer, as `new_optimizer` has."""
    groups = problems.parameter_groups(problem, task, model)
    if problem.optimizer == "adamw":
        return groups, WEIGHT_DECAY
    return [{**group, "weight_decay": 0.0} for group in groups], 0.0


def _new(package: str, kind: str, groups: list[dict], **settings: Any) -> Optimizer:
    """Return a package's optimizer, without what it prints about itself."""
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"this method needs the package `{package}`: pip install --editable benchmarks"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):
        return getattr(module, kind)(groups, **settings)


def _train(
    problem: Problem,
    task: Task,
    seed: int,
    model: nn.Module,
    optimizer: Optimizer,
    after: Callable[[float], object] = lambda _: None,
    rate: Callable[[dict], float] = lambda group: group["lr"],
    before: Callable[[], object] = lambda: None,
    finish: Callable[[], object] = lambda: None,
) -> Outcome:
    """Train: `before` each optimizer step, `after` each but the last, `finish` at the end."""
    started = time.perf_counter()
    steps, lrs = [], []
    for step in range(1, problem.steps + 1):
        loss: Tensor = task.loss(model, problems.global_batch(task, seed, step - 1))
        optimizer.zero_grad()
        loss.backward()
        before()
        optimizer.step()
        if is_read(step, problem.steps):
            rates = [float(rate(group)) for group in optimizer.param_groups]
            steps.append(step)
            lrs.append(sum(rates) / len(rates))
        if step < problem.steps:
            after(float(loss.detach()))
    seconds = time.perf_counter() - started
    finish()
    return Outcome(problems.held_out_loss(task, model), steps, lrs, seconds)

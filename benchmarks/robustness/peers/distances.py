"""Methods that estimate how far the solution is, and take their step size from it.

None asks for a learning rate: `lr` is not used, and one run stands for all starts.

- Prodigy: Mishchenko and Defazio, arXiv 2306.06101; package prodigyopt 1.1.2
- D-Adaptation: Defazio and Mishchenko, arXiv 2301.07733; package dadaptation 3.2
- DoG: Ivgi, Hinder and Carmon, arXiv 2302.12022; package dog-optimizer 1.0.3
- Mechanic: Cutkosky, Defazio and Mehta, arXiv 2306.00144; package mechanic-pytorch 0.0.1
"""

from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...tasks import Batch, Task
from .. import problems
from ..loop import train
from ..problems import MOMENTUM, WEIGHT_DECAY, Outcome, Problem
from .training import begin, groups_for, package, packaged, with_linear_steps


def prodigy(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with Prodigy and cosine annealing.

    From its README: `lr` stays at 1, d0 at 1e-6; cosine annealing over all steps, without
    restarts; and what users of diffusion models found best, `safeguard_warmup` and
    `use_bias_correction`. It is an Adam also where the problem has SGD.
    """
    del lr
    model = problems.new_model(task, seed)
    groups, decay = groups_for(problem, task, model)
    own = {"safeguard_warmup": True, "use_bias_correction": True, "weight_decay": decay}
    optimizer = packaged("prodigyopt", "Prodigy", groups, lr=1.0, **own)
    schedule = CosineAnnealingLR(optimizer, T_max=problem.steps)

    def rate(group: dict) -> float:
        return group["d"] * group["lr"]

    return train(problem, task, seed, model, optimizer, lambda _: schedule.step(), rate=rate)


def d_adaptation(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with D-Adaptation of Adam, or of SGD where the problem has it.

    From its README: `lr` stays at 1; the schedule is the one that the problem has anyway;
    `decouple` where the weight decay is AdamW's. With SGD the rate that is reported is the
    one of torch's SGD that takes equal steps: (1 - momentum) d / |g0|.
    """
    del lr
    problem = with_linear_steps(problem)
    model = problems.new_model(task, seed)
    groups, decay = groups_for(problem, task, model)
    if problem.optimizer == "sgd":
        optimizer = packaged("dadaptation", "DAdaptSGD", groups, lr=1.0, momentum=MOMENTUM)
    else:
        own = {"weight_decay": decay, "decouple": True}
        optimizer = packaged("dadaptation", "DAdaptAdam", groups, lr=1.0, **own)
    schedule = problems.make_schedule(optimizer, problem, 1.0)

    def rate(group: dict) -> float:
        scale = (1 - MOMENTUM) / group["g0_norm"] if "g0_norm" in group else 1.0
        return group["d"] * group["lr"] * scale

    return train(problem, task, seed, model, optimizer, lambda _: schedule.step(), rate=rate)


def dog(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with DoG, and evaluate the average of its weights.

    From its README: `lr` 1 and `reps_rel` 1e-6 (no batch normalisation here), without a
    schedule; its polynomial-decay averager at its default, which "is crucial". Its weight
    decay is an L2 penalty, not AdamW's, and stays at its default of 0. It is an SGD also where
    the problem has AdamW.
    """
    del lr
    model = problems.new_model(task, seed)
    groups = problems.parameter_groups(problem, task, model)
    optimizer = packaged("dog", "DoG", [{**g, "weight_decay": 0.0} for g in groups])
    averager = package("dog").PolynomialDecayAverager(model)

    def step(_loss: Tensor, _batch: Batch) -> None:
        optimizer.step()
        averager.step()

    def rate(group: dict) -> float:
        return group["eta"][0]

    average = averager.averaged_model
    return train(problem, task, seed, model, optimizer, step=step, rate=rate, evaluated=average)


def mechanic(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with Mechanic around the problem's own optimizer and schedule.

    From its README: the wrapped optimizer has `lr` 1 ("you can set the lr to anything") under
    any schedule, and its own settings stay as they are; `mechanize` has its defaults. Around
    Schedule-Free it would move the weights from under the average: there it has AdamW.
    """
    del lr
    problem = with_linear_steps(problem)
    model, plain = begin(problem, task, 1.0, seed)
    # The groups carry every setting of the problem's optimizer, its rate of 1 included.
    kind: Any = package("mechanic_pytorch").mechanize(type(plain))
    optimizer = kind(plain.param_groups, lr=1.0, weight_decay=WEIGHT_DECAY)
    schedule = problems.make_schedule(optimizer, problem, 1.0)

    def rate(group: dict) -> float:
        return float(optimizer.state["_mechanic"]["s"].sum()) * group["lr"]

    return train(problem, task, seed, model, optimizer, lambda _: schedule.step(), rate=rate)

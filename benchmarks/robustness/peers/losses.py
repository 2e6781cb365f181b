"""MoMo: a step size from a model of the loss that the last gradients give.

The model-based step is capped by `lr`: a rate that is too high is repaired, one that is too
low is not. Source: Schaipp et al., arXiv 2305.07583; package momo-opt 0.1.0.
"""

import warnings

from torch import Tensor

from ...tasks import Batch, Task
from .. import problems
from ..loop import train
from ..problems import MOMENTUM, Outcome, Problem
from .training import groups_for, packaged


def momo(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with MoMo-Adam, or MoMo where the problem has SGD, capped at `lr`.

    From its README: `lr` and `weight_decay` as usual, and `use_fstar` estimates the least loss,
    which is not known here. A constant `lr` "should work fine"; the cap follows the problem's
    schedule all the same, since on regression and teacher it ends 3 to 13 % lower so from the
    best rate and 4 to 19 % from 30 times it (and 10 to 17 % higher from a 30th). MoMo averages
    gradients where torch's SGD adds them up, so that its `lr` is 1 / (1 - momentum) times the
    usual. The rate is the cap.
    """
    model = problems.new_model(task, seed)
    groups, decay = groups_for(problem, task, model)
    if problem.optimizer == "sgd":
        peak, kind, own = lr / (1 - MOMENTUM), "Momo", {"beta": MOMENTUM}
    else:
        peak, kind, own = lr, "MomoAdam", {"weight_decay": decay}
    optimizer = packaged("momo", kind, groups, lr=peak, use_fstar=True, **own)
    schedule = problems.make_schedule(optimizer, problem, peak)

    def step(loss: Tensor, _batch: Batch) -> None:
        with warnings.catch_warnings():
            # Of several groups it says that it might have issues with them, at every step.
            warnings.simplefilter("ignore")
            optimizer.step(loss=loss)

    def after(_loss: float) -> None:
        schedule.step()

    return train(problem, task, seed, model, optimizer, after, step=step)

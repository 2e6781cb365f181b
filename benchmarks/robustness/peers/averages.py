"""Schedule-free methods: an average of the weights in place of a schedule's fall.

Each is put into training mode before the first step and into evaluation mode before the
held-out loss, which is the loss of the averaged weights.

- Schedule-Free: Defazio et al., arXiv 2405.15682; package schedulefree 1.4.1
- Prodigy with Schedule-Free: package prodigy-plus-schedule-free 2.0.1
- ScheduleFree+: Defazio, arXiv 2605.19095; own code, see `polyak`
"""

from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ...tasks import Batch, Task
from .. import problems
from ..loop import train
from ..problems import Outcome, Problem
from .polyak import ScheduleFreePlus
from .training import WARMUP, groups_for, packaged

PLUS_DECAY = 20.0  # ScheduleFree+'s reference: 20 or 50; it is times the squared step size
SGD_SCALE = 10.0  # Schedule-Free's README: 10 to 50 times the usual rate of SGD


def schedule_free(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with Schedule-Free AdamW, or SGD where the problem has it, at `lr`.

    From its README: no schedule, warm-up is recommended (5 % of the run here), and AdamW's
    rates are 1 to 10 times the usual. Steps of its SGD do not build up momentum: `lr` is
    multiplied by the lower of what it names.
    """
    model = problems.new_model(task, seed)
    groups, decay = groups_for(problem, task, model)
    own = {"weight_decay": decay, "warmup_steps": max(1, problem.steps // WARMUP)}
    if problem.optimizer == "sgd":
        kind, peak = "SGDScheduleFree", lr * SGD_SCALE
    else:
        kind, peak = "AdamWScheduleFree", lr
    optimizer = packaged("schedulefree", kind, groups, lr=peak, **own)

    def rate(group: dict) -> float:
        return group["scheduled_lr"]

    return train(problem, task, seed, model, optimizer, rate=rate)


def prodigy_schedule_free(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with Prodigy and Schedule-Free in one.

    From its README: "the default settings should just work": `lr` 1, a constant schedule, no
    clipping; so all is at its default but the weight decay, which is the problem's. It asks
    for no learning rate: `lr` is not used. The rate is `d * effective_lr`, as it advises.
    """
    del lr
    model = problems.new_model(task, seed)
    groups, decay = groups_for(problem, task, model)
    name, kind = "prodigyplus", "ProdigyPlusScheduleFree"
    optimizer = packaged(name, kind, groups, lr=1.0, weight_decay=decay)

    def rate(group: dict) -> float:
        return group["d"] * group["effective_lr"]

    return train(problem, task, seed, model, optimizer, rate=rate)


def schedule_free_plus(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with ScheduleFree+, whose Polyak step asks for no learning rate.

    From the source's reference: `lr` 1 (`lr` here is not used), beta 0.9 and 0.95, the
    interpolation annealed from 0.9 to 0.965 (over the run), `r` 0, no average over the norm of
    the gradient, weight decay 20 (of the 20 to 50 that it names), and the average held back for
    as long as the warm-up of the rate, here 5 % of the run. All this is for language models of
    a size that makes the Polyak step small: on models of 100,000 weights and fewer, that step
    is large enough to diverge, without weight decay more so.
    """
    del lr
    model = problems.new_model(task, seed)
    groups = problems.parameter_groups(problem, task, model)
    warmup = max(1, problem.steps // WARMUP)
    optimizer = ScheduleFreePlus(
        [{**group, "weight_decay": PLUS_DECAY} for group in groups],
        anneal_steps=problem.steps,
        hold_steps=warmup,
    )
    schedule = LambdaLR(optimizer, lambda k: min(1.0, (k + 1) / warmup))

    def step(loss: Tensor, _batch: Batch) -> None:
        optimizer.step(lambda: float(loss.detach()))

    def rate(group: dict) -> float:
        return group["scheduled_lr"]

    def after(_loss: float) -> None:
        schedule.step()

    return train(problem, task, seed, model, optimizer, after, step=step, rate=rate)

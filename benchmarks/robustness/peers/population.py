"""Population-based training, as a baseline of the same total compute.

The idea (Jaderberg et al., arXiv 1711.09846): a population trains side by side, each member
with a learning rate of its own; now and then the worst take over weights and optimizer of the
best (exploit), with its rate slightly changed (explore). The population is the replicas: member
r sees replica r's batches only, so all members together cost what one ensemble run costs, and
each member trains on a batch `REPLICAS` times smaller than the other methods' global batch.

The rule and its constants are those of Ray Tune 2.60, `PopulationBasedTraining`, in its
synchronous form: quantile 0.25, factors 1.2 and 0.8, resampling with probability 0.25. Two
things differ: draws come from a keyed generator (Ray draws from Python's global one), and a
member whose loss is not a number counts as the worst, where Ray would leave it out of both
quantiles for the rest of the run.
"""

import copy
import math

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from hdet.seeding import generator

from ...tasks import Task
from ..loop import Recorder
from ..problems import (
    REPLICAS,
    Outcome,
    Problem,
    make_schedule,
    new_model,
    new_optimizer,
    parameter_groups,
    replica_batch,
)
from .training import ScaledSchedule, set_mode

QUANTILE = 0.25
RESAMPLE = 0.25
FACTORS = (1.2, 0.8)
RANGE = 3.0  # initial and resampled factors of the rate are log-uniform in [1 / 3, 3]
INTERVALS = 20  # exploit and explore after each 5 % of the run, but not after the last


def quantiles(losses: list[float]) -> tuple[list[int], list[int]]:
    """Return who exploits and who is exploited by their losses, as members' indices.

    That is the worst and the best quarter (rounded up, at most half), worst member first; both
    are empty if the population has one member.
    """
    order = sorted(range(len(losses)), key=lambda member: -_worst_if_nan(losses[member]))
    if len(order) <= 1:
        return [], []
    count = min(math.ceil(len(order) * QUANTILE), len(order) // 2)
    return order[:count], order[-count:]


def draw_factor(draw: Generator) -> float:
    """Return a factor of the learning rate, log-uniform in [1 / RANGE, RANGE]."""
    return RANGE ** (2 * _uniform(draw) - 1)


def explore(factor: float, draw: Generator) -> float:
    """Return the factor that a member takes which has copied one with `factor`."""
    if _uniform(draw) < RESAMPLE:
        return draw_factor(draw)
    return factor * FACTORS[int(_uniform(draw) < 0.5)]


class Member:
    """One model with its own optimizer and factor on the common schedule.

    Attributes:
        factor: what the scheduled learning rate is multiplied by.
        losses: training losses since the last exploit.
    """

    def __init__(self, problem: Problem, task: Task, lr: float, seed: int, factor: float):
        self.factor = factor
        self.losses: list[float] = []
        self.model: nn.Module = new_model(task, seed)
        groups = parameter_groups(problem, task, self.model)
        self.optimizer: Optimizer = new_optimizer(problem, groups, lr)
        set_mode(self.optimizer, "train")
        schedule = make_schedule(self.optimizer, problem, lr)
        self._schedule = ScaledSchedule(self.optimizer, schedule)
        self._schedule.scale(factor)

    def step(self, loss: Tensor) -> float:
        """Take one optimizer step on `loss`, and return the mean rate it was taken at."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(float(loss.detach()))
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        return sum(rates) / len(rates)

    def advance(self) -> None:
        """Move the schedule on by one step."""
        self._schedule.step()
        self._schedule.scale(self.factor)

    def exploit(self, other: "Member", factor: float) -> None:
        """Take over weights and optimizer state of `other`, with a factor of one's own."""
        self.model.load_state_dict(other.model.state_dict())
        # Loading keeps tensors of the right type as they are: without a copy, both members
        # would write to the same moments.
        self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))
        self.factor = factor
        self._schedule.scale(factor)

    def recent_loss(self) -> float:
        """Return the mean loss since the last exploit; infinite if it is not a number."""
        return _worst_if_nan(sum(self.losses) / len(self.losses))


def pbt(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train a population of `REPLICAS` members, and return its best as a `Method` does.

    Each member follows the problem's schedule of the start `lr` times its factor. Its score
    is its own mean training loss since the last exploit; the best by the score of the last
    5 % of the run is evaluated on the held-out batches. `lrs` is the mean over all members.
    """
    factors = [draw_factor(generator(seed, "pbt", "start", m)) for m in range(REPLICAS)]
    members = [Member(problem, task, lr, seed, factor) for factor in factors]
    interval = max(1, round(problem.steps / INTERVALS))
    recorder = Recorder(problem, task, members[0].model)
    for step in range(1, problem.steps + 1):
        rates = [
            member.step(task.loss(member.model, replica_batch(task, seed, step - 1, rank)))
            for rank, member in enumerate(members)
        ]
        if recorder.due(step):
            best = min(members, key=Member.recent_loss)
            set_mode(best.optimizer, "eval")
            recorder.read(step, best.model, sum(rates) / len(rates))
            set_mode(best.optimizer, "train")
        if step == problem.steps:
            break
        for member in members:
            member.advance()
        # A member that has just copied another needs an interval to be judged by itself.
        if step % interval == 0 and step + interval <= problem.steps:
            _exploit_and_explore(members, generator(seed, "pbt", "explore", step))
    return recorder.outcome()


def _exploit_and_explore(members: list[Member], draw: Generator) -> None:
    worst, best = quantiles([member.recent_loss() for member in members])
    for index in worst:
        other = members[best[int(_uniform(draw) * len(best))]]
        members[index].exploit(other, explore(other.factor, draw))
    for member in members:
        member.losses.clear()


def _uniform(draw: Generator) -> float:
    return float(torch.rand((), generator=draw, dtype=torch.float64))


def _worst_if_nan(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss

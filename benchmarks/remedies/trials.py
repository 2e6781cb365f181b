"""What a short trial tells, by whose gradient it follows.

Explorer's replicas try a rate each, alone: on their own share of a batch, which is noisier. Here
trials begin at points of a plain run, and each rate is tried both ways: by every replica on its
own batch, where the mean of their losses counts, and by one model on the batch of all. A trial
has the warm-up and the decay of Explorer's. What is kept is the rate of the lowest loss, over
the best rate of whole runs.
"""

import copy
import statistics

import torch
from torch import nn
from torch.optim import Optimizer

from hdet import SearchConfig

from ..robustness import ours
from ..robustness.problems import (
    PROBLEMS,
    REPLICAS,
    Problem,
    global_batch,
    load,
    new_model,
    new_optimizer,
    parameter_groups,
    replica_batch,
)
from ..tasks import Batch, Task

CONFIG = SearchConfig()
# Of the best rate: those that are tried, and those of the runs in which trials begin.
TRIED = [10 ** (k / 2) for k in range(-4, 3)]
RUNS = [0.1, 0.5]
BEGUN = [24, 60]  # steps of such a run, after a warm-up as at the climb's end
# Name, steps of a trial, and whether it has the batches of all replicas.
KINDS = {
    "own batch, 16 steps": (16, False),
    "own batch, 48 steps": (48, False),
    "batch of all, 16 steps": (16, True),
    "batch of all, 48 steps": (48, True),
}


def favourites(name: str, best: float, seed: int) -> dict[str, list[float]]:
    """Return, by kind, the multiple of the best rate that each trial would choose."""
    problem = PROBLEMS[name]
    task, found = load(problem), {kind: [] for kind in KINDS}
    for share in RUNS:
        model = new_model(task, seed)
        optimizer = _optimizer(problem, task, model)
        for step in range(max(BEGUN)):
            rate = best * share * min(1.0, (step + 1) / CONFIG.restart_warmup)
            _step(task, model, optimizer, rate, global_batch(task, seed, step))
            if step + 1 not in BEGUN:
                continue
            for kind, (steps, together) in KINDS.items():
                losses = [
                    _tried(problem, task, model, optimizer, seed, step + 1, steps, together, x)
                    for x in (best * multiple for multiple in TRIED)
                ]
                found[kind].append(TRIED[losses.index(min(losses))])
    return found


def _tried(
    problem: Problem,
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    seed: int,
    begun: int,
    steps: int,
    together: bool,
    peak: float,
) -> float:
    """Return the probes' mean loss after a trial; of every replica's, if each is alone."""
    losses = []
    for rank in range(1 if together else REPLICAS):
        own = copy.deepcopy(model)
        alone = _optimizer(problem, task, own)
        alone.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for t in range(steps):
            up = (t + 1) / (CONFIG.trial_warmup * steps)
            down = (steps - t) / (CONFIG.trial_decay * steps)
            batch = (
                global_batch(task, seed, begun + t)
                if together
                else replica_batch(task, seed, begun + t, rank)
            )
            _step(task, own, alone, peak * min(1.0, up, down), batch)
        losses.append(_score(task, own, seed))
    return statistics.fmean(losses)


def _step(
    task: Task, model: nn.Module, optimizer: Optimizer, rate: float, batch: Batch
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    task.loss(model, batch).backward()
    optimizer.step()


@torch.no_grad()
def _score(task: Task, model: nn.Module, seed: int) -> float:
    batches = (ours.probe_batch(task, seed, k) for k in range(CONFIG.trial_probes))
    loss = statistics.fmean(float(task.loss(model, batch)) for batch in batches)
    return loss if loss < float("inf") else float("inf")


def _optimizer(problem: Problem, task: Task, model: nn.Module) -> Optimizer:
    return new_optimizer(problem, parameter_groups(problem, task, model), 1.0)

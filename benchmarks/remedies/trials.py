"""What a short trial tells, by whose gradient it follows.

Explorer's replicas try a rate each, alone: on their own share of a batch, which is noisier.
Here trials begin at points of a plain run, and every rate is tried on several shares: by one
model on the batch of all, and on smaller parts of it by some models, of which the mean loss
counts. A trial has the warm-up and the decay of Explorer's. What is kept is the rate of the
lowest loss, over the best rate of whole runs.
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
    Problem,
    global_batch,
    load,
    new_model,
    new_optimizer,
    parameter_groups,
)
from ..tasks import Batch, Task

CONFIG = SearchConfig()
# Of the best rate: those that are tried, and those of the runs in which trials begin.
TRIED = [10 ** (k / 2) for k in range(-4, 3)]
RUNS = [0.1, 0.5]
BEGUN = [24, 60]  # steps of such a run, after a warm-up as at the climb's end
# Into how many parts the batch of all is divided, and the steps of a trial.
KINDS = {
    "1/16 of the batch": (16, CONFIG.trial_steps),
    "1/4 of the batch": (4, CONFIG.trial_steps),
    "1/2 of the batch": (2, CONFIG.trial_steps),
    "the whole batch": (1, CONFIG.trial_steps),
    "the whole batch, three times as long": (1, 3 * CONFIG.trial_steps),
}
MODELS = 4  # at most, of those that train on a part


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
            for kind, (parts, steps) in KINDS.items():
                losses = [
                    _tried(problem, task, model, optimizer, seed, step + 1, parts, steps, x)
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
    parts: int,
    steps: int,
    peak: float,
) -> float:
    """Return the probes' mean loss after a trial, over models that train on a part each."""
    losses = []
    for part in range(min(parts, MODELS)):
        own = copy.deepcopy(model)
        alone = _optimizer(problem, task, own)
        alone.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for t in range(steps):
            up = (t + 1) / (CONFIG.trial_warmup * steps)
            down = (steps - t) / (CONFIG.trial_decay * steps)
            whole = global_batch(task, seed, begun + t)
            batch = tuple(column.chunk(parts)[part] for column in whole)
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

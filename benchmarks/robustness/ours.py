"""HDET in the robustness benchmark: `Explorer` at its defaults, and the paper's controller.

Both run as N replicas in one process, by the references that a test shows equal to real
ranks.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import hdet
from hdet.replica.explorer import reference as explorer_reference
from hdet.replica.explorer.probe import evaluation_weights
from hdet.replica.paper import reference

from ..tasks import Batch, Task
from .loop import Recorder
from .problems import (
    REPLICAS,
    Method,
    Outcome,
    Problem,
    make_schedule,
    new_model,
    new_optimizer,
    parameter_groups,
    replica_batch,
)

# T: a run of some hundred steps needs syncs by the hundred, too.
SYNC_EVERY = 5
SPREAD = 1 / 9  # the paper's
# Seeds of the probe's batches are far from those of the training stream.
PROBE_SEED = 10_000


def probe_batch(task: Task, seed: int, sync: int) -> Batch:
    """Return the batch that all replicas score at a sync: four of a replica's size.

    It comes from the stream of another seed. Where the stream is a pass over finite data,
    its examples are those of the training set, in another order.
    """
    last = task.max_steps(REPLICAS)
    step = sync if last is None else sync % last
    parts = [task.batch(PROBE_SEED + seed, step, rank, REPLICAS) for rank in range(REPLICAS)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def explorer(
    problem: Problem,
    task: Task,
    lr: float,
    seed: int,
    config: hdet.SearchConfig | None = None,
    trials: bool | None = None,
) -> Outcome:
    """Train by `Explorer` over the learning rate, at its defaults or another configuration.

    With `trials=False` the search ends with the climb, as it does under FSDP2.
    """
    initial, probes = new_model(task, seed), 0
    recorder, optimizers = Recorder(problem, task, initial), []

    def make_optimizer(model: nn.Module) -> Optimizer:
        groups = parameter_groups(problem, task, model)
        optimizers.append(new_optimizer(problem, groups, lr))
        return optimizers[-1]

    def read(step: int, model: nn.Module) -> None:
        with evaluation_weights(optimizers[0]):
            recorder.read(step, model)

    def probe(model: nn.Module, sync: int) -> Tensor:
        nonlocal probes
        probes += 1
        return task.loss(model, probe_batch(task, seed, sync))

    trace = explorer_reference.train(
        initial,
        make_optimizer,
        lambda optimizer: make_schedule(optimizer, problem, lr),
        _recorded_loss(task, seed, recorder, read),
        probe,
        explore=lambda _: [hdet.lr()],
        replicas=REPLICAS,
        total_steps=problem.steps,
        T=SYNC_EVERY,
        seed=seed,
        trials=trials,
        config=config,
    )
    rates = [sum(groups) / len(groups) for groups in trace.base_rates]
    read(problem.steps, trace.models[0])
    # A probe is of a global batch's size, and each replica takes it.
    return _outcome(recorder, rates, float(probes))


def paper(problem: Problem, task: Task, lr: float, seed: int, sigma: float) -> Outcome:
    """Train by the paper's method with auto-LR: equations (1) to (5)."""
    initial = new_model(task, seed)
    recorder = Recorder(problem, task, initial)
    trace = reference.train(
        initial,
        lambda model: new_optimizer(problem, parameter_groups(problem, task, model), lr),
        _recorded_loss(task, seed, recorder, recorder.read),
        replicas=REPLICAS,
        total_steps=problem.steps,
        max_lr=lr,
        alpha=SPREAD,
        T=SYNC_EVERY,
        # After the schedule's peak, as in the paper's runs: what remains is its decay.
        S_warm=round(0.3 * problem.steps),
        auto_lr=True,
        sigma=sigma,
        cycle_momentum=False,
        seed=seed,
    )
    rates = [sum(sum(row) / len(row) for row in groups) / len(groups) for groups in trace.rates]
    recorder.read(problem.steps, trace.models[0])
    return _outcome(recorder, rates, 0.0)


def _recorded_loss(
    task: Task, seed: int, recorder: Recorder, read: Callable[[int, nn.Module], None]
) -> Callable[[nn.Module, int, int], Tensor]:
    """Return the replicas' loss; the first one's weights are read where all are averaged."""

    def loss(model: nn.Module, step: int, rank: int) -> Tensor:
        if rank == 0 and step % SYNC_EVERY == 0 and recorder.due(step):
            read(step, model)
        return task.loss(model, replica_batch(task, seed, step, rank))

    return loss


def _outcome(recorder: Recorder, rates: list[float], probes: float) -> Outcome:
    outcome = recorder.outcome(probes)
    return replace(outcome, lrs=[rates[step - 1] for step in outcome.steps])


OURS: dict[str, Method] = {
    "hdet": explorer,
    "paper-0.1": partial(paper, sigma=0.1),
    "paper-0.002": partial(paper, sigma=0.002),
}

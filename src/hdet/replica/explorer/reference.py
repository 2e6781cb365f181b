"""`Explorer` line by line, for N replicas in one process.

Slow and plain on purpose: what the distributed code is tested against, and a way to run an
ensemble, or a benchmark of one, without several processes. It leaves out what a run needs
and the algorithm does not: checkpoints, shards, broken replicas. The values move by the same
arithmetic on plain numbers, `Exploration` and `HeldSchedule`; all that happens to weights is
here anew.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..ensemble.gathered import Gathered
from ..ensemble.optimizer_state import all_state, reset_state, weight_dependent_state
from ..ensemble.permutation import permutation
from ..ensemble.reference import average as average_replicas
from ..ensemble.reference import mean_losses, own_gradients, share_gradients
from .checks import collect
from .config import DEFAULT, SearchConfig
from .dimensions import Dimension, Request
from .exploration import Decision, Exploration
from .held_schedule import HeldSchedule, shares_of
from .probe import Mode, evaluate
from .reference_search import ReferenceSearch, Updates


@dataclass
class ExplorerTrace:
    """What happened.

    Attributes:
        losses: [step][replica], each on the replica's own batch.
        rates: [step][group][replica].
        base_rates: [step][group].
        values: [sync][dimension], the base values after each sync.
        rollbacks: how often all replicas went back to the averaged weights.
        models: the N models as they are after the last step.
    """

    losses: list[list[float]] = field(default_factory=list)
    rates: list[list[list[float]]] = field(default_factory=list)
    base_rates: list[list[float]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    rollbacks: int = 0
    models: list[nn.Module] = field(default_factory=list)


def train(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    make_schedule: Callable[[Optimizer], LRScheduler] | None,
    loss: Callable[[nn.Module, int, int], Tensor],
    probe: Callable[[nn.Module, int], Tensor] | None,
    *,
    explore: Callable[[nn.Module], Sequence[Request]],
    replicas: int,
    total_steps: int,
    T: int,
    seed: int = 0,
    search: bool | None = None,
    probe_mode: Mode = "eval",
    config: SearchConfig | None = None,
    on_sync: Callable[[int, list[float], Decision], None] | None = None,
) -> ExplorerTrace:
    """Train `replicas` copies of `model` in this process, tuning what `explore` names.

    Args:
        model: the common start; not changed.
        make_optimizer: makes a replica's optimizer.
        make_schedule: makes a scheduler for an optimizer; None for constant rates.
        loss: loss(model, step, replica) -> this replica's mean loss, with a graph.
        probe: probe(model, sync) -> loss on the common batch of a sync; None for none.
        explore: explore(model) -> what `Explorer(explore=...)` takes, for that replica.
        replicas: N >= 2.
        total_steps: all of which are run.
        T: optimizer steps between syncs.
        seed: as for `Explorer`.
        search: likewise.
        probe_mode: likewise.
        config: likewise.
        on_sync: on_sync(sync, losses, decision) is called at every sync, once it is decided
            and before the replicas are averaged, with the losses that were scored.

    Returns:
        The trace.
    """
    models = [copy.deepcopy(model) for _ in range(replicas)]
    optimizers = [make_optimizer(m) for m in models]
    dimensions = [collect(explore(m), o) for m, o in zip(models, optimizers, strict=True)]
    paired, config = probe is not None, config or DEFAULT
    search = paired if search is None else search
    state = Exploration(
        dimensions[0],
        replicas,
        seed,
        permutation,
        search=search,
        paired=paired,
        trials=paired,
        config=config,
    )
    shares_state = all(d.shares_state for d in dimensions[0])
    followed = weight_dependent_state if shares_state else all_state
    schedule = _schedule(make_optimizer(copy.deepcopy(model)), make_schedule, total_steps)
    groups = [HeldSchedule(rate, rate) for rate in schedule[0]]
    searching = None
    if state.search is not None:
        for group, written in zip(groups, _written(optimizers[0], schedule), strict=True):
            group.peak = written

        def score(m: nn.Module, trial: int) -> float:
            assert probe is not None
            probes = [trial * config.trial_probes + k for k in range(config.trial_probes)]
            scores = [_score(probe, m, None, 1.0, probe_mode, seed, k) for k in probes]
            return sum(scores[1:], scores[0]) / len(scores)

        searching = ReferenceSearch(state.search, models, optimizers, score)
    begun = 0  # the step at which the search ended
    updates = Updates(models)
    average: list[Tensor] | None = None
    refused = 0
    buffers: list[Tensor] = []
    trace = ExplorerTrace(models=models)
    interval: list[list[float]] = []

    for t in range(total_steps):
        for group, rate in zip(groups, schedule[t], strict=True):
            group.advance(rate)
        base, eta = _set_values(dimensions, optimizers, state, groups)

        losses = [loss(m, t, r) for r, m in enumerate(models)]
        if searching is not None and searching.apart:
            own_gradients(models, losses)
        else:
            share_gradients(models, losses)
        if searching is not None:
            searching.before_step()
        elif state.held:
            updates.look()
        for optimizer in optimizers:
            optimizer.step()
        trace.losses.append([x.item() for x in losses])
        trace.rates.append(eta)
        trace.base_rates.append(base)
        interval.append(trace.losses[-1])
        if searching is not None:
            turn = searching.after_step()
            state.follow_search()
            if turn.roll_back:
                means = mean_losses(interval)
                state.guard.tracker.begin(math.fsum(means) / len(means))
                interval = []
            if turn.done:
                interval = []
                searching, begun = None, t + 1
                for group in groups:
                    group.peak = None
            continue
        if (t + 1 - begun) % T or not dimensions[0]:
            continue

        L = mean_losses(interval)
        interval, sync = [], state.syncs
        scored = L
        if probe is not None:
            scored = [
                _score(probe, m, average, config.probe_mix, probe_mode, seed, sync)
                for m in models
            ]
        gathered = Gathered(losses=L, probes=scored)
        shares = shares_of(dimensions[0], groups)
        decision = state.decide(gathered, shares)
        if state.held:
            state.hold(updates.cosine(), (t + 1 - T, t + 1), shares)
        if on_sync is not None:
            on_sync(sync, scored, decision)
        average_replicas(models, optimizers, decision.excluded, followed)
        if state.differ or decision.rollback:
            updates.forget()
        if decision.rollback and average is not None:
            trace.rollbacks += 1
            _roll_back(models, optimizers, average, buffers)
        far = average is not None and _far(average, models[0], config.max_weight_move)
        refused = refused + 1 if far else 0
        if not 0 < refused <= config.max_refused_weights:
            average = _take_in(average, models[0], config.averaging_weight)
            buffers = [b.clone() for b in models[0].buffers()]
        trace.values.append(state.base_values())
    return trace


def _set_values(
    dimensions: list[list[Dimension]],
    optimizers: list[Optimizer],
    state: Exploration,
    groups: list[HeldSchedule],
) -> tuple[list[float], list[list[float]]]:
    """Set every replica's values; return base and replicas' rates of each group."""
    # What is not explored follows the schedule, rises and falls.
    base = [group.now for group in groups]
    eta = [[rate] * len(optimizers) for rate in base]
    rows = zip(dimensions[0], state.base_values(), state.values(), strict=True)
    for j, (dimension, value, row) in enumerate(rows):
        if dimension.group is None:
            for own, x in zip(dimensions, row, strict=True):
                own[j].write(x)
        else:
            held = groups[dimension.group].value
            base[dimension.group] = value * held
            eta[dimension.group] = [held * factor for factor in row]
    for r, optimizer in enumerate(optimizers):
        for group, rates in zip(optimizer.param_groups, eta, strict=True):
            group["lr"] = rates[r]
    return base, eta


def _written(optimizer: Optimizer, schedule: list[list[float]]) -> list[float]:
    """Return each group's highest rate in the schedule: what the user wrote."""
    groups = range(len(optimizer.param_groups))
    return [max(rates[g] for rates in schedule) for g in groups]


@torch.no_grad()
def _roll_back(
    models: Sequence[nn.Module],
    optimizers: Sequence[Optimizer],
    average: list[Tensor],
    buffers: list[Tensor],
) -> None:
    for model, optimizer in zip(models, optimizers, strict=True):
        for weight, safe in zip(model.parameters(), average, strict=True):
            weight.copy_(safe)
        for buffer, kept in zip(model.buffers(), buffers, strict=True):
            if buffer.is_floating_point():
                buffer.copy_(kept)
        reset_state(optimizer)


@torch.no_grad()
def _far(average: list[Tensor], model: nn.Module, most: float) -> bool:
    """Return whether the weights are far out of all proportion to their average."""
    pairs = zip(model.parameters(), average, strict=True)
    gap = math.fsum(float((w - a).norm()) ** 2 for w, a in pairs) ** 0.5
    size = math.fsum(float(a.norm()) ** 2 for a in average) ** 0.5
    return not (gap <= most * size or (size == 0 and math.isfinite(gap)))


@torch.no_grad()
def _take_in(average: list[Tensor] | None, model: nn.Module, share: float) -> list[Tensor]:
    """Return the average with the converged weights taken in."""
    if average is None:
        return [p.detach().clone() for p in model.parameters()]
    pairs = zip(average, model.parameters(), strict=True)
    return [mine.lerp(weight, share) for mine, weight in pairs]


def _schedule(
    optimizer: Optimizer,
    make_schedule: Callable[[Optimizer], LRScheduler] | None,
    total_steps: int,
) -> list[list[float]]:
    """Return the rate of each group at every step, as the scheduler alone would set it."""
    scheduler = None if make_schedule is None else make_schedule(optimizer)
    steps = []
    for t in range(total_steps):
        steps.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        # A scheduler made for `total_steps` may refuse the step after the last.
        if scheduler is not None and t + 1 < total_steps:
            scheduler.step()
    return steps


@torch.no_grad()
def _score(
    probe: Callable[[nn.Module, int], Tensor],
    model: nn.Module,
    average: list[Tensor] | None,
    mix: float,
    mode: Mode,
    seed: int,
    sync: int,
) -> float:
    """Return the probe's loss at the model, or between the average and the model."""
    own = [p.clone() for p in model.parameters()]
    if average is not None:
        for weight, centre in zip(model.parameters(), average, strict=True):
            weight.copy_(torch.lerp(centre, weight, mix))
    value, _ = evaluate(lambda: probe(model, sync), model, mode, seed, sync)
    for weight, kept in zip(model.parameters(), own, strict=True):
        weight.copy_(kept)
    return float(value)

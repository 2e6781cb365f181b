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
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ..ensemble.gathered import Gathered
from ..ensemble.optimizer_state import all_state, reset_state, weight_dependent_state
from ..ensemble.permutation import permutation
from ..ensemble.reference import average as average_replicas
from ..ensemble.reference import mean_losses, own_gradients, share_gradients
from .checks import collect
from .config import DEFAULT, SearchConfig
from .decision import Decision
from .dimensions import Dimension, Request
from .exploration import Exploration
from .held_schedule import HeldSchedule, decaying, risen_shares, shares_of
from .probe import Mode, evaluate, evaluation_weights
from .reference_search import OldUpdates, ReferenceSearch


@dataclass
class ExplorerTrace:
    """What happened.

    Attributes:
        losses: `[step][replica]`, each on the replica's own batch.
        rates: `[step][group][replica]`.
        base_rates: `[step][group]`.
        values: `[sync][dimension]`, the base values after each sync.
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
    trials: bool | None = None,
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
        probe: probe(model, call) -> loss on the common batch of a call, which are numbered
            from 0: a trial makes several, a sync one; None for none.
        explore: explore(model) -> what `Explorer(explore=...)` takes, for that replica.
        replicas: N >= 2.
        total_steps: all of which are run.
        T: optimizer steps between syncs.
        seed: as for `Explorer`.
        search: likewise.
        trials: whether the replicas can train alone, as under DistributedDataParallel; by
            default where there is a probe.
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
    state = Exploration(
        dimensions[0],
        replicas,
        seed,
        permutation,
        search=paired if search is None else search,
        paired=paired,
        trials=paired if trials is None else trials,
        config=config,
    )
    alone = make_optimizer(copy.deepcopy(model))
    written, schedule = _schedule(alone, make_schedule, total_steps)
    groups = [HeldSchedule(rate, rate) for rate in schedule[0]]
    if state.search is not None:
        for group, peak in zip(groups, written, strict=True):
            group.peak = group.written = peak
    run = _Run(models, optimizers, dimensions, state, groups, probe, probe_mode, seed, T)
    for t in range(total_steps):
        run.step(t, schedule[t], loss)
        if run.searching is not None:
            run.search_step(t)
        elif (t + 1 - run.begun) % T == 0 and dimensions[0]:
            run.sync(t, on_sync)
    return run.trace


class _Run:
    """Where `train` stands.

    Attributes:
        searching: does what the search asks for; None when it is over.
        begun: the step at which it ended.
        trace: what has happened.
    """

    def __init__(
        self,
        models: list[nn.Module],
        optimizers: list[Optimizer],
        dimensions: list[list[Dimension]],
        state: Exploration,
        groups: list[HeldSchedule],
        probe: Callable[[nn.Module, int], Tensor] | None,
        probe_mode: Mode,
        seed: int,
        T: int,
    ) -> None:
        self._models = models
        self._optimizers = optimizers
        self._dimensions = dimensions
        self._state = state
        self._config = state.config
        self._groups = groups
        self._probe = probe
        self._probe_mode: Mode = probe_mode
        self._seed = seed
        self._T = T
        self._calls = 0  # of the probe
        self._updates = OldUpdates(models[0], state.config)
        self._average: list[Tensor] | None = None
        self._provisional = False  # whether it is only to go back to
        self._refused = 0
        self._buffers: list[Tensor] = []
        self._interval: list[list[float]] = []
        self.trace = ExplorerTrace(models=models)
        self.begun = 0
        self.searching: ReferenceSearch | None = None
        if state.search is not None:
            self.searching = ReferenceSearch(
                state.search, models, optimizers, self._score_trial, self._config
            )

    def step(
        self, t: int, rates: list[float], loss: Callable[[nn.Module, int, int], Tensor]
    ) -> None:
        """Take an optimizer step on every replica."""
        for group, rate in zip(self._groups, rates, strict=True):
            group.advance(rate)
        base, eta = _set_values(self._dimensions, self._optimizers, self._state, self._groups)
        losses = [loss(m, t, r) for r, m in enumerate(self._models)]
        if self.searching is not None and self.searching.apart:
            own_gradients(self._models, losses)
        else:
            share_gradients(self._models, losses)
        if self.searching is not None:
            self.searching.before_step()
        self._updates.look()
        for optimizer in self._optimizers:
            optimizer.step()
        self.trace.losses.append([x.item() for x in losses])
        self.trace.rates.append(eta)
        self.trace.base_rates.append(base)
        self._interval.append(self.trace.losses[-1])

    def search_step(self, t: int) -> None:
        """Do what the search asks for after a step."""
        assert self.searching is not None
        search = self._state.search
        turn = self.searching.after_step(decaying(self._dimensions[0], self._groups))
        self._state.follow_search()
        if turn.roll_back:
            self._average, self._provisional = _take_in(None, self._models[0], 1.0), True
            self._buffers = [b.clone() for b in self._models[0].buffers()]
            means = mean_losses(self._interval)
            self._state.guard.tracker.begin(math.fsum(means) / len(means))
            self._interval = []
        if turn.found:
            for group in self._groups:
                group.peak = None
        if turn.done:
            self._interval = []
            self.searching, self.begun = None, t + 1
        if search is not None and search.found:
            self._updates.advance(t + 1)

    def sync(
        self, t: int, on_sync: Callable[[int, list[float], Decision], None] | None
    ) -> None:
        """Let the replicas tell what they have seen, decide, and average them."""
        state, config, models = self._state, self._config, self._models
        losses = mean_losses(self._interval)
        self._interval, number = [], state.syncs
        probes = self._score_sync(number)
        shares = shares_of(self._dimensions[0], self._groups)
        decision = state.decide(Gathered(losses=losses, probes=probes), shares)
        if on_sync is not None:
            scored = probes if any(map(math.isfinite, probes)) else losses
            on_sync(number, scored, decision)
        shares_state = all(d.shares_state for d in self._dimensions[0])
        followed = weight_dependent_state if shares_state else all_state
        average_replicas(models, self._optimizers, decision.excluded, followed)
        average = self._average
        if decision.rollback:
            self._updates.forget()
        if decision.rollback and average is not None:
            self.trace.rollbacks += 1
            _roll_back(models, self._optimizers, average, self._buffers)
        if state.held:
            near = risen_shares(self._dimensions[0], self._groups, config.hold_from)
            state.hold(self._updates.advance(t + 1), (t + 1 - self._T, t + 1), near)
        if self._provisional:
            average, self._provisional = None, False
        far = average is not None and _far(average, models[0], config.max_weight_move)
        self._refused = self._refused + 1 if far else 0
        if not 0 < self._refused <= config.max_refused_weights:
            self._average = _take_in(average, models[0], config.averaging_weight)
            self._buffers = [b.clone() for b in models[0].buffers()]
        self.trace.values.append(state.base_values())

    def _score_sync(self, number: int) -> list[float]:
        """Return the probe's loss of each replica at a sync; NaN where there is none."""
        probe, calls = self._probe, self._calls
        if probe is None or not self._state.differ:
            return [math.nan] * len(self._models)
        self._calls += 1
        mix, mode = self._config.probe_mix, self._probe_mode
        average = None if self._provisional else self._average
        return [
            _score(probe, m, calls, average, mix, mode, self._seed, number)
            for m in self._models
        ]

    def _score_trial(self, trial: int) -> list[float]:
        """Return the probe's mean loss of each replica at the end of a trial."""
        assert self._probe is not None
        count, totals = self._config.trial_probes, [0.0] * len(self._models)
        how = (None, 1.0, self._probe_mode, self._seed)
        for k in range(trial * count, (trial + 1) * count):
            for r, m in enumerate(self._models):
                with evaluation_weights(self._optimizers[r]):
                    totals[r] += _score(self._probe, m, self._calls, *how, k)
            self._calls += 1
        return [total / count for total in totals]


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
) -> tuple[list[float], list[list[float]]]:
    """Return each group's rate as the user wrote it, and at every step without replicas."""
    scheduler = None if make_schedule is None else make_schedule(optimizer)
    groups = optimizer.param_groups
    written = [float(g.get("max_lr", g.get("initial_lr", g["lr"]))) for g in groups]
    if isinstance(scheduler, LambdaLR):
        pairs = zip(written, scheduler.lr_lambdas, strict=True)
        written = [lr * max(share(t) for t in range(total_steps)) for lr, share in pairs]
    steps = []
    for t in range(total_steps):
        steps.append([float(group["lr"]) for group in groups])
        optimizer.step()
        # A scheduler made for `total_steps` may refuse the step after the last.
        if scheduler is not None and t + 1 < total_steps:
            scheduler.step()
    return written, steps


@torch.no_grad()
def _score(
    probe: Callable[[nn.Module, int], Tensor],
    model: nn.Module,
    call: int,
    average: list[Tensor] | None,
    mix: float,
    mode: Mode,
    seed: int,
    number: int,
) -> float:
    """Return the probe's loss at the model, or between the average and the model."""
    own = [p.clone() for p in model.parameters()]
    if average is not None:
        for weight, centre in zip(model.parameters(), average, strict=True):
            weight.copy_(torch.lerp(centre, weight, mix))
    value, _ = evaluate(lambda: probe(model, call), model, mode, seed, number)
    for weight, kept in zip(model.parameters(), own, strict=True):
        weight.copy_(kept)
    return float(value)

"""`Explorer`: hyperparameters that tune themselves under any learning rate schedule.

Data-parallel replicas share every gradient and train with different hyperparameters. A
learning rate is the schedule times a learned factor, one for each parameter group. A loss
becomes the next learning rate in `Explorer.step`, every `sync_every` steps; all but the last
line is in `_sync`:

    gathered = ensemble.gather(...)           the replicas' losses, on the probe and their own
    decision = exploration.decide(gathered)   slopes, who is excluded, the next factors  (1, 7)
    ensemble.average(decision.excluded)       theta_r <- mean of the other replicas         (3)
    averaged.restore()                        if the decision is a rollback
    values.apply()                            rate of replica r in group g
                                              = factor_g * rho_g,r * held schedule_g(t)

Between two syncs a step has two halves: the wrapped scheduler, and whoever else changes
rates, sees and sets them as if no replica were there; then they are scaled for this replica
(`replica_values`). So every scheduler works, also those that compute the next rate from the
last.

Source: HDET (arXiv 2604.24708), equation (7), which its authors did not build; how the values
move is ours, and measured in the documentation.
"""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from ...errors import require
from ..ensemble.apart import Apart
from ..ensemble.ensemble import Ensemble
from ..ensemble.gathered import Gathered
from ..ensemble.group_values import on_load, own_rates, set_initial_rates
from ..ensemble.meshes import find_replicas
from ..ensemble.rate_effect import differing
from ..ensemble.setup_checks import (
    refuse_epoch,
    refuse_lr_free,
    refuse_unfit,
    require_rates,
    unwrapped,
    unwrapped_schedule,
)
from .averaged_weights import AveragedWeights
from .checks import (
    check_arguments,
    collect,
    never_finite_message,
    nothing_finite_message,
    overwritten_message,
    require_model,
    warn_of_short_schedule,
)
from .config import DEFAULT, SearchConfig
from .dimensions import Request
from .held_schedule import shares_of
from .hyperparameters import lr
from .intake import ExplorerIntake
from .probe import Mode as ProbeMode
from .probe import Probe, evaluate
from .replica_values import ReplicaValues
from .searching import ExplorerSearch
from .state import NAME, Mode
from .wrapped_schedule import Schedule, WrappedSchedule


class Explorer(ExplorerIntake, ExplorerSearch):
    """Tunes learning rates, and any other scalars, while the model trains.

    Before: `scheduler = CosineAnnealingLR(optimizer, 10_000)`, `scheduler.step()`
    After:  `scheduler = hdet.Explorer(optimizer, CosineAnnealingLR(optimizer, 10_000),
    probe=hdet.probe(model, held_out, loss))`, `scheduler.step(loss)`, and
    `with scheduler.converged():` around saving and evaluating.

    Construct it on every rank, after `torch.distributed.init_process_group`. `step` is
    collective at its first call and at every `sync_every`-th, `converge` always. With one
    replica, or nothing to explore under shared gradients, it does exactly what the wrapped
    scheduler does, bit for bit.

    It is an `LRScheduler` and can be combined with others: what they, or the training loop,
    change between two steps carries over as a factor on the rate, or on what else is explored.
    What is set over the replicas' own values, as by `group["lr"] = 1e-4`, becomes the base
    value at the next sync; what is set at every step leaves nothing to explore, which is
    warned of. `SequentialLR` goes inside.

    Args:
        optimizer: any torch optimizer whose update is scaled by `lr`. Under FSDP2 on a
            (replicate, shard) mesh the replicas are the replicate axis.
        scheduler: a torch scheduler of this optimizer; or a callable that maps the optimizer
            step, from 0, to a factor on the optimizer's own rates; or None for constant
            rates. ReduceLROnPlateau is stepped once per sync, with the mean loss of all
            replicas: its patience counts syncs, and its mode has to be "min". So every
            `sync_every`-th step is then collective, also with an empty `explore`.
        explore: a list of `hdet.lr()`, `hdet.weight_decay()`, `hdet.betas()` and
            `hdet.attribute(...)`. Default: the learning rate of every parameter group. An
            empty list leaves the wrapped scheduler alone, bit for bit. N replicas can tell
            N - 2 of them apart; with more it warns once, and they move slowly.
        sync_every: optimizer steps between two syncs, at least 1. About 1 % of the run is a
            good interval. The search does not depend on it.
        warmup_steps: optimizer steps of plain training before exploration begins. It then
            begins at the rate of the schedule, without a search unless `search=True`.
        probe: returns this replica's loss on a batch that is the same on every replica, as
            one number; `hdet.probe` makes one. Without it the training losses of the
            interval are used. They are far noisier, so there is no search unless `search`
            asks for it, and then no trials.
        model: its floating-point buffers are averaged; its mode, buffers, random state and
            FSDP2's gathered weights are protected while the probe runs. Give it whenever
            there is a probe; under FSDP2 it is required. Give the DistributedDataParallel
            wrapper itself, compiled or not: then the search can try several rates, since
            each replica can train alone for some steps. Without the wrapper it only climbs
            to a first bound, which is often too low; a log line says so.
        process_group: the replicas, if they are neither the mesh's replicate axis nor all
            ranks; or a mesh whose first axis is the replicas and whose other axes are the
            processes of one replica.
        seed: of the permutations and of the probe's random state; the same on every rank.
        search: whether the scale of the rates is searched first, from a thousandth of the
            rate that the user wrote. It takes about 100 optimizer steps, in which all rates
            move as one, at rates that do not follow the schedule. Then the schedule goes on
            from where it is, times the factor found. False explores around the schedule
            itself. Default: True if there is a probe, no warm-up and a shared gradient.
        probe_mode: "eval" or "train", the model's mode while the probe runs. Whatever acts
            in train mode only, such as dropout, is seen only by a probe in train mode.
        shared_gradients: False where each replica steps on its own gradient (local SGD). All
            optimizer state then differs and is averaged too; and with `explore=[]` the
            replicas are still averaged at every sync, as a baseline.
        mode: "tune", or "observe" to train as without Explorer, bit for bit: the replicas do
            not differ and are never averaged, and the probe is not called. At each sync what
            can be measured all the same is decided on, from the user's own values, and told by
            the log and by `metrics()["would_be"]`. `warmup_steps` is taken for 0. Such a run
            goes on with the same checkpoint and "tune"; the other way is refused.
        freeze_after: optimizer steps, at least 1, after which exploration is over: at the
            first sync from then on all values move for the last time, and stay. All replicas
            train with the base values then, as one, and there are no syncs any more, except
            for ReduceLROnPlateau's loss and in local mode. A search for the rate is not cut
            short, and the averaged weights are freed. A frozen state that is loaded without
            it, or with a later one, explores on. Default None: never.
        on_sync: called with this Explorer, on every rank, after each sync and each step of
            the search, for trackers and for what a script wants to do then. It must not be
            collective. `hdet.integrations.trackers` has some.
        log: a file to which the first process appends a line of JSON at the same steps: the
            record of the run, which `hdet report` draws. Its folder is made.
        config: the constants of the search; default `SearchConfig()`.

    Raises:
        ValueError: on every rank, naming argument, rule, value and remedy.
        TypeError: if `optimizer` is not an optimizer, or `scheduler` not a scheduler.

    References:
        Cheng, Huang, Zhu, Alonso, arXiv 2604.24708, "general hyperparameters".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: Schedule | None = None,
        explore: Sequence[Request] | None = None,
        *,
        sync_every: int = 100,
        warmup_steps: int = 0,
        probe: Probe | None = None,
        model: nn.Module | None = None,
        process_group: dist.ProcessGroup | DeviceMesh | None = None,
        seed: int = 0,
        search: bool | None = None,
        probe_mode: ProbeMode = "eval",
        shared_gradients: bool = True,
        mode: Mode = "tune",
        freeze_after: int | None = None,
        on_sync: Callable[["Explorer"], object] | None = None,
        log: str | Path | None = None,
        config: SearchConfig | None = None,
    ) -> None:
        given, optimizer = optimizer, unwrapped(optimizer, NAME)
        scheduler = unwrapped_schedule(scheduler, NAME)
        require_rates(optimizer, NAME)
        check_arguments(
            optimizer,
            scheduler,
            sync_every,
            warmup_steps,
            probe,
            probe_mode,
            seed,
            mode,
            freeze_after,
            on_sync,
            log,
        )
        dimensions = collect([lr()] if explore is None else explore, optimizer)
        parameters = []
        if any(d.is_rate for d in dimensions):
            refuse_lr_free(optimizer, NAME, "explore=[]")
        if dimensions or not shared_gradients:
            refuse_unfit(given, NAME)
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
        remedy = "use hdet.SearchConfig(...)"
        good = config is None or isinstance(config, SearchConfig)
        require(good, NAME, "config", config, "must be a SearchConfig", remedy)
        replicas = find_replicas(parameters, NAME, process_group)
        require_model(probe, model, replicas)
        self.optimizer = optimizer
        self._probe = probe
        self._probe_mode: ProbeMode = probe_mode
        self._model = model
        self._interval, self._seed = int(sync_every), seed
        self._mode: Mode = mode
        self._warmup = self._begun = int(warmup_steps) if mode == "tune" else 0
        self._freeze_after = freeze_after
        self._step = 0
        self._synced = self._introduced = self._found = self._frozen = False
        self._skipped = self._watching = False
        self._shared_gradients = shared_gradients
        average_state = not (shared_gradients and all(d.shares_state for d in dimensions))
        self._ensemble = Ensemble(optimizer, model, replicas, NAME, average_state, self._facts)
        self._config, self._search = config or DEFAULT, search
        self._averaged = AveragedWeights(optimizer, model, self._config)
        by_default = probe is not None and warmup_steps == 0 and shared_gradients
        self._trial = Apart(optimizer, model, replicas)
        self._exploration = self._new_exploration(dimensions, by_default)
        if self._exploring:
            self._supersede()
            own_rates(optimizer)
            if replicas.is_first:
                searches = self._exploration.search is not None
                warn_of_short_schedule(scheduler, sync_every, warmup_steps, searches)
        set_initial_rates(optimizer)
        self._schedule = WrappedSchedule(optimizer, scheduler)
        if self._exploration.search is not None and self._active:
            self._begin_search()
        self._values = ReplicaValues(optimizer, self._exploration, self._schedule.groups)
        self._nonfinite_syncs = 0  # in a row
        self._listeners = [] if on_sync is None else [on_sync]
        self._log = None if log is None else self._new_log(log)
        self._tried, self._climbed = None, (0.0, 0.0)
        self._last: dict[str, Any] = {}
        self._evidence = ""
        self._last_line = ""  # what the last sync decided, in words
        self._told = set()
        on_load(optimizer, self._apply)
        self._apply()
        if mode == "observe" and self._takes_part:
            self._begin_evidence()
        self._ensemble.appear(self._takes_part)
        if dimensions and replicas.size == 1:
            logging.getLogger("hdet").warning(
                "There is one replica, so nothing is explored and your schedule is followed as "
                "it is. Start several processes, by torchrun for example, to tune it."
            )
        why = self._why_no_trials()
        if self._exploration.search is not None and self._exploring and why is not None:
            self._say(logging.INFO, f"the search will end with the climb: {why}")

    # --- what users call

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        loss: Tensor | float | None = None,
        *,
        skipped: bool | None = None,
        epoch: None = None,
    ) -> None:
        """Count one optimizer step; call it after `optimizer.step()`, on every rank.

        Collective at its first call, at every step of the search's climb and of its warm-up,
        at both ends of a trial and after its first step, and then at every `sync_every`-th
        step, if there are several replicas; local otherwise. Where it is local it never waits
        for the device, except under a GradScaler with a fused optimizer. Where a GradScaler
        has skipped the optimizer's step, neither step nor loss is counted.

        Args:
            loss: this replica's own training loss, not reduced over ranks: a number, or a
                tensor with one element on any device. None if it went to `observe`, or if
                there is a probe.
            skipped: whether the optimizer's step was skipped; by default the optimizer's
                calls tell. Give it where they cannot be seen, as in a captured CUDA graph.
            epoch: only for torch's signature, and refused: steps are counted here.

        Raises:
            ValueError: if a parameter group was added while there are several replicas, or
                `epoch` is given; on every rank, if the replicas' settings differ.
            RuntimeError: if a rank fails to reach a sync; on every rank, if there is
                neither loss nor probe at a sync, or nothing finite to go back to.
        """
        refuse_epoch(NAME, epoch)
        if not self._counts(loss, skipped):
            return
        exploring, scaled, values = self._exploring or self._looks, self._scaled, self._values
        self._step += 1
        since = self._step - self._begun
        search = self._exploration.search if exploring and since > 0 else None
        due = since > 0 and since % self._interval == 0
        self._synced = exploring and search is None and due
        if self._synced or search is not None:
            if scaled:
                values.take_over()
            self._sync() if search is None else self._search_step(search)
        told = self._plateau_loss() if self._schedule.needs_a_loss else None
        if scaled:
            values.lend()
        self._schedule.step(self._step, told)
        if scaled:
            # At the factors from before the sync, if there was one; `_apply` sets the new.
            values.follow()
        elif exploring:
            self._schedule.track()
        if since == 0:
            self._schedule.read()
            self._ensemble.meter.reset()
            if self._exploration.search is not None and self._active:
                self._begin_search()
        moved = self._synced or search is not None
        if moved or not scaled or values.replica != self._ensemble.rank:
            self._apply()
        if moved:
            self._tell()

    # --- internals

    def _agree(self) -> None:
        """Make what others have changed the same on every replica. Collective if they have."""
        if not self._values.taken_over:
            return
        overwritten = self._values.agree(self._ensemble.gather_numbers(self._values.shared()))
        for name in sorted(set(overwritten) - self._told):
            warnings.warn(overwritten_message(name), stacklevel=6)
        self._told.update(overwritten)
        self._apply()

    def _sync(self) -> None:
        """Gather what the replicas have seen, decide, average, and move the values."""
        if not self._moves:
            self._meet()
            return
        score, milliseconds = self._score()
        # Rates that others have set are the same on all replicas, and said to be so elsewhere.
        own = {*differing(self._values.rates())} - self._values.touched_groups
        gathered = self._ensemble.gather(
            self._step,
            probe=score,
            differing=sorted(own),
            recoverable=self._averaged.exists,
        )
        self._agree()
        self._refuse_nothing_finite(gathered)
        shares = shares_of(self._exploration.dimensions, self._schedule.groups)
        before = self._values.base_values()
        decision = self._exploration.decide(gathered, shares)
        self._ensemble.average(decision.excluded)
        self._ensemble.meter.reset()
        if decision.rollback:
            self._averaged.restore()
            self._ensemble.weights_changed()
            if self._watching:
                self._forget_evidence()
        self._averaged.update()
        self._hold(shares)
        self._report(gathered, decision, before, milliseconds)
        if self._freeze_after is not None and self._step >= self._freeze_after:
            self._freeze()

    def _score(self) -> tuple[float | Tensor, float]:
        """Return the probe's loss and its milliseconds; NaN where nothing asks for it."""
        if self._probe is None or not (self._exploration.differ or self._lacks_losses()):
            return math.nan, 0.0
        self._ensemble.assemble("the probe", self._step)
        args = (self._probe, self._model, self._probe_mode, self._seed, self._exploration.syncs)
        with self._averaged.between():
            return evaluate(*args)

    def _refuse_nothing_finite(self, gathered: Gathered) -> None:
        """Raise where there is nothing to decide on, or no rollback has helped."""
        known = gathered.given or self._probe is not None
        lost = gathered.all_broken or not gathered.any_finite
        self._nonfinite_syncs = self._nonfinite_syncs + 1 if lost else 0
        if lost and not gathered.all_broken and not (self._averaged.exists and known):
            raise RuntimeError(nothing_finite_message(known))
        if self._nonfinite_syncs >= self._config.max_nonfinite_syncs:
            raise RuntimeError(never_finite_message(self._nonfinite_syncs))

    def _apply_base(self) -> None:
        if self._scaled:
            self._values.apply(None)

    def _apply(self) -> None:
        """Set this replica's values; also where the optimizer has loaded rank 0's."""
        if self._scaled:
            self._values.apply(self._ensemble.replicas.rank)

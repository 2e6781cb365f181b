"""`OneCycleAutoLR`: torch's OneCycleLR for an ensemble of replicas that tunes itself.

Data-parallel replicas share every gradient and train at different learning rates; every T
steps their weights are averaged, and their loss differences move the base learning rate.

At optimizer step t, on replica r of N, in each parameter group:

    before the controller acts   eta_r(t) = OneCycle(t) * rho_r                        (1)
    every T steps (`_sync`)      the losses are gathered; from `auto_lr_warmup_steps` on
                                 eta_bar <- the controller's decision               (4, 5)
                                 theta_r <- mean over replicas of theta                (3)
                                 eta_r   <- eta_bar * rho_pi(r), until the next sync

Source: HDET (arXiv 2604.24708), whose public code differs in several places (see the
documentation, "Differences from the published code"). In symbols: alpha
`ensemble_lr_spread_ratio`, T `model_sync_interval`, S `total_steps`, S_warm
`auto_lr_warmup_steps`, sigma `loss_scale`, lambda `lr_of_lr`, beta `momentum_of_lr`.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from ...errors import where
from ..ensemble.ensemble import Ensemble
from ..ensemble.gathered import Gathered
from ..ensemble.group_values import on_load, own_rates, set_rates
from ..ensemble.meshes import find_replicas
from ..ensemble.rate_effect import differing
from ..ensemble.setup_checks import (
    refuse_epoch,
    refuse_lr_free,
    refuse_unfit,
    require_rates,
    unwrapped,
)
from .checks import (
    check_arguments,
    no_finite_loss_message,
    no_loss_message,
    warn_of_few_intervals,
)
from .controller import BaseRates, Controller, decay_per_sync
from .fan_out import group_multipliers
from .state import NAME, OneCycleState


class OneCycleAutoLR(OneCycleState):
    """OneCycleLR with a learning rate per replica, averaging, and automatic exploration.

    Before: `scheduler = OneCycleLR(optimizer, 1e-3, total_steps)`, `scheduler.step()`
    After:  `scheduler = hdet.OneCycleAutoLR(optimizer, 1e-3, total_steps, <spread, ...>)`,
    `scheduler.step(loss)`, and `with scheduler.converged():` around saving and evaluating.

    Construct it on every rank, after `torch.distributed.init_process_group`. `step` is
    collective once every `model_sync_interval` steps, `converge` always; all else is local.
    With one replica, or a spread of 0 under shared gradients, it is OneCycleLR, bit for bit.

    A sync averages the weights, the buffers of `model`, and optimizer state that follows the
    weights: under coupled weight decay (that of Adam, SGD, RMSprop, Adagrad), and copies of
    weights (Schedule-Free's `z`, Lookahead's slow weights, masters under `master_param`). State
    made of gradients alone is equal on all replicas, and left alone.

    Args:
        optimizer: any torch optimizer whose update is scaled by `lr`. Under FSDP2 on a
            (replicate, shard) mesh the replicas are the replicate axis.
        max_lr: the peak of the base learning rate, one number or one per parameter group.
        total_steps: S, optimizer steps of the whole run.
        epochs: with `steps_per_epoch`, in place of `total_steps`.
        steps_per_epoch: optimizer steps in one epoch.
        pct_start: share of the run in which the rate rises.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: whether momentum (or beta1) moves against the rate; it goes on
            following OneCycle while the controller holds the rate.
        base_momentum: lowest momentum, at the peak rate.
        max_momentum: highest momentum.
        div_factor: initial rate = max_lr / div_factor.
        final_div_factor: last rate = initial rate / final_div_factor.
        three_phase: whether to add OneCycle's third phase.
        last_epoch: -1 for a new run, else the steps already done.
        ensemble_lr_spread_ratio: alpha in [0, 1). 0, the default, is plain OneCycleLR; the
            paper uses 1/9.
        model_sync_interval: T, optimizer steps between two averagings, at least 1.
        auto_lr_warmup_steps: S_warm >= 0, optimizer steps before the controller may act;
            the default is the paper's, for runs of millions of steps. Leave 60 intervals or
            more after it: the base rate falls by `final_div_factor / div_factor` over them, and
            with fewer the velocity outlives the rate that it was measured at.
        enable_auto_lr: whether the controller acts at all.
        loss_scale: sigma > 0, the loss difference that makes a replica's weight e times
            larger; 0.002 by default as in the published code, 0.1 in the paper. It is
            absolute: compare it with the differences in `metrics()["losses"]`.
        lr_of_lr: lambda >= 0, how far the velocity moves the base rate.
        momentum_of_lr: beta in [0, 1) of that velocity.
        rank: this replica, only where no process group is initialised.
        world_size: the number of replicas, likewise.
        model: its floating-point buffers (batch-norm statistics) are averaged too. Required
            under FSDP2, which may otherwise go on with older gathered weights.
        process_group: the replicas, if they are neither the mesh's replicate axis nor all
            ranks; or a mesh whose first axis is the replicas and whose other axes are the
            processes of one replica.
        seed: of the permutations; the same on every rank.
        shared_gradients: False where each replica steps on its own gradient (local SGD). All
            optimizer state then differs and is averaged too; and with a spread of 0 the
            replicas are still averaged at every sync, as a baseline.

    Raises:
        ValueError: on every rank, naming argument, rule, value and remedy.
        TypeError: if `optimizer` is not an optimizer.

    References:
        Cheng, Huang, Zhu, Alonso: Scalable Hyperparameter-Divergent Ensemble Training with
        Automatic Learning Rate Exploration for Large Models, arXiv 2604.24708.
    """

    # OneCycleLR's constructor calls `step` once, to set the first rate.
    _constructed = False

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
        ensemble_lr_spread_ratio: float = 0.0,
        model_sync_interval: int = 1000,
        auto_lr_warmup_steps: int = 100_000,
        enable_auto_lr: bool = False,
        loss_scale: float = 0.002,
        lr_of_lr: float = 0.5,
        momentum_of_lr: float = 0.9,
        rank: int = 0,
        world_size: int = 1,
        *,
        model: nn.Module | None = None,
        process_group: dist.ProcessGroup | DeviceMesh | None = None,
        seed: int = 0,
        shared_gradients: bool = True,
    ) -> None:
        given, optimizer = optimizer, unwrapped(optimizer, NAME)
        check_arguments(
            total_steps=total_steps or (epochs or 0) * (steps_per_epoch or 0),
            spread=ensemble_lr_spread_ratio,
            interval=model_sync_interval,
            warmup=auto_lr_warmup_steps,
            auto=enable_auto_lr,
            loss_scale=loss_scale,
            lr_of_lr=lr_of_lr,
            momentum=momentum_of_lr,
            seed=seed,
            max_lr=max_lr,
            rank=rank,
            world_size=world_size,
        )
        parameters = []
        if ensemble_lr_spread_ratio > 0:
            own_rates(optimizer)
            refuse_lr_free(optimizer, NAME)
            require_rates(optimizer, NAME)
        if ensemble_lr_spread_ratio > 0 or not shared_gradients:
            refuse_unfit(given, NAME)
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
        replicas = find_replicas(parameters, NAME, process_group, rank, world_size)
        self._ensemble = Ensemble(
            optimizer, model, replicas, NAME, not shared_gradients, self._facts
        )
        self._spread, self._shared_gradients = ensemble_lr_spread_ratio, shared_gradients
        self._interval = model_sync_interval
        self._warmup = auto_lr_warmup_steps
        self._auto = enable_auto_lr
        self._seed = seed
        self._introduced = False
        self._base = BaseRates([0.0] * len(optimizer.param_groups))
        if isinstance(max_lr, (list, tuple)):
            peak = [float(rate) for rate in max_lr]
        else:
            # A tensor here would put device arithmetic, and a wait, into every step.
            peak = float(max_lr)  # pyright: ignore[reportArgumentType]
        super().__init__(
            optimizer,
            peak,
            total_steps,
            epochs,
            steps_per_epoch,
            pct_start,
            anneal_strategy,
            cycle_momentum,
            base_momentum,
            max_momentum,
            div_factor,
            final_div_factor,
            three_phase,
            last_epoch,
        )
        decay = 0.0
        if self._auto:
            intervals = (self.total_steps - self._warmup) / self._interval
            decay = decay_per_sync(div_factor, final_div_factor, intervals)
            if self._exploring and replicas.rank == 0:
                warn_of_few_intervals(self.total_steps, self._warmup, self._interval)
        self._controller = Controller(loss_scale, lr_of_lr, momentum_of_lr, decay)
        self._constructed = True
        on_load(optimizer, self._reapply)
        self._ensemble.appear(self._exploring)

    # --- what users call

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        loss: Tensor | float | None = None,
        *,
        skipped: bool | None = None,
        epoch: None = None,
    ) -> None:
        """Count one optimizer step; call it after `optimizer.step()`, on every rank.

        Collective at every `model_sync_interval`-th step if there is a spread over several
        replicas, or they do not share gradients; local otherwise. Between syncs it never waits
        for the device, except under a GradScaler with a fused optimizer. Where a GradScaler
        has skipped the optimizer's step, neither step nor loss is counted.

        Args:
            loss: this replica's own training loss, not reduced over ranks: a number, or a
                tensor with one element on any device. None if it went to `observe`, or if
                auto-LR is off.
            skipped: whether the optimizer's step was skipped; by default the optimizer's
                calls tell. Give it where they cannot be seen, as in a captured CUDA graph.
            epoch: only for torch's signature, and refused: steps are counted here.

        Raises:
            ValueError: past `total_steps`, where OneCycleLR raises too; if a parameter group
                was added, or `epoch` is given; on every rank, if the replicas' settings differ.
            RuntimeError: if a rank fails to reach a sync; on every rank, if auto-LR was
                never given a loss, if all replicas are non-finite, or if `world_size` is
                above 1 and there is no process group.
        """
        refuse_epoch(NAME, epoch)
        if not self._constructed:
            super().step()
            return
        if self._only_accumulates(loss, skipped):
            return
        ensemble, exploring = self._ensemble, self._exploring
        if exploring:
            if not ensemble.counts(skipped):
                return
        elif self._apart:
            ensemble.require_connection()
        if loss is not None:
            ensemble.meter.observe(loss)
        ensemble.meter.keep()
        self._before_step(self.last_epoch + 1, exploring)
        # torch's own step asks `get_lr` for the rates, and writes them.
        super().step()

    def metrics(self) -> dict[str, Any]:
        """Return what the last sync found, as plain numbers and lists. Local, on any rank.

        Returns:
            `step`, `syncs`; `base_lr` per parameter group, `replica_lr` per group and replica,
            in effect now; `velocity` per group; `masked_total` per replica; after the first
            sync `losses` and `divergence` per replica, `masked` (replicas), `sync_ms`; and
            once the controller has acted `weights` per replica, `delta`, `floored` per group.
        """
        return {
            "step": self.last_epoch,
            "base_lr": list(self._base_now),
            "replica_lr": self._replica_lrs(),
            **self._ensemble.history.metrics(),
            **self._base.metrics(),
        }

    def get_lr(self) -> list[float | Tensor]:
        """Return this replica's rate for the coming step; see `get_last_lr` for users."""
        # OneCycleLR's last permitted step would rebound towards the initial rate.
        asked = self.last_epoch
        if asked == self.total_steps:
            self.last_epoch = asked - 1
        try:
            schedule = super().get_lr()
        finally:
            self.last_epoch = asked
        self._base_now = [float(lr) for lr in (self._base.values or schedule)]
        if not (self._spread > 0 and self._ensemble.size > 1):
            return schedule
        rank = self._ensemble.rank
        rows = zip(self._base_now, self._rhos(), strict=True)
        return [base * row[rank] for base, row in rows]

    # --- internals

    @property
    def _apart(self) -> bool:
        return self._spread > 0 or not self._shared_gradients

    @property
    def _steps_done(self) -> int:
        return self.last_epoch

    def _agree(self) -> None:
        """Nothing: OneCycleLR sets its rates itself, whatever others have done."""

    def _rhos(self) -> list[list[float]]:
        """Return the multiplier in effect for each parameter group and replica."""
        base = self._base
        acted_at = None if base.values is None else base.acted_at
        size, groups = self._ensemble.size, len(base.velocities)
        return group_multipliers(size, self._spread, groups, self._seed, acted_at)

    def _replica_lrs(self) -> list[list[float]]:
        """Return eta_r for each parameter group and replica, as in effect now."""
        rows = zip(self._base_now, self._rhos(), strict=True)
        return [[base * rho for rho in row] for base, row in rows]

    def _before_step(self, step: int, exploring: bool) -> None:
        """Check, and sync if it is due, ahead of the rates for optimizer step `step`."""
        if step > self.total_steps:
            raise ValueError(
                f"{where()}Tried to step {step} times. The specified number of total steps "
                f"is {self.total_steps}: make the scheduler with the run's whole length."
            )
        made, groups = len(self._base.velocities), len(self.optimizer.param_groups)
        if groups != made:
            raise ValueError(
                f"{where()}`{NAME}` was made for {made} parameter groups and the optimizer "
                f"now has {groups}: add groups before making the scheduler."
            )
        if not exploring:
            return
        if not self._introduced:
            self._introduce(step)
        if step % self._interval == 0:
            self._sync(step)

    def _sync(self, step: int) -> None:
        """Gather the losses, let the controller decide if its time has come, and average."""
        rates = self._replica_lrs()
        gathered = self._ensemble.gather(step, differing=differing(rates))
        acts = self._auto and step >= self._warmup
        self._check_losses(gathered, step, acts)
        if acts:
            sync, velocities = step // self._interval, self._base.velocities
            self._base = self._controller.decide(velocities, rates, gathered.losses, sync)
        self._ensemble.average()
        self._ensemble.meter.reset()

    def _check_losses(self, gathered: Gathered, step: int, acts: bool) -> None:
        """Raise, or warn at the first sync, where the controller has nothing to go by."""
        if gathered.given and not gathered.any_finite:
            raise RuntimeError(no_finite_loss_message(len(gathered.losses)))
        if self._auto and not (gathered.given or self._ensemble.history.ever_given):
            if acts:
                raise RuntimeError(no_loss_message())
            if step == self._interval:
                warnings.warn(no_loss_message(), stacklevel=5)

    def _reapply(self) -> None:
        """Keep the spread where every rank loads the optimizer that rank 0 saved."""
        if self._exploring:
            self._apply()

    def _apply_base(self) -> None:
        set_rates(self.optimizer, self._base_now)

    def _apply(self) -> None:
        """Set the optimizer's rates and momenta to what they are at this step."""
        self._get_lr_called_within_step = True
        try:
            rates = self.get_lr()
        finally:
            self._get_lr_called_within_step = False
        set_rates(self.optimizer, rates)
        self._last_lr = list(rates)

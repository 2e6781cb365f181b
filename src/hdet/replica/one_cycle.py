"""`OneCycleAutoLR`: torch's OneCycleLR for an ensemble of replicas that tunes itself.

Data-parallel replicas share every gradient and train at different learning rates; every T
steps their weights are averaged, and their loss differences move the base learning rate.

At optimizer step t, on replica r of N, in each parameter group:

    before the controller acts   eta_r(t) = OneCycle(t) * rho_r                        (1)
    every T steps                theta_r <- mean over replicas of theta                (3)
    and from `auto_lr_warmup_steps` on, at the same syncs,
                                 eta_bar <- the controller's base value             (4, 5)
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
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from ..errors import where
from .controller import Controller, decay_per_sync, softmax_weights
from .ensemble import Ensemble, no_loss_message
from .group_values import on_load, set_rates
from .groups import find_replicas
from .one_cycle_checks import check_arguments, check_state
from .setup_checks import refuse_lr_free, refuse_sharded_optimizer
from .spread import group_multipliers

_NAME = "OneCycleAutoLR"


class OneCycleAutoLR(OneCycleLR):
    """OneCycleLR with a learning rate per replica, averaging, and automatic exploration.

    Before: `scheduler = OneCycleLR(optimizer, 1e-3, total_steps)`, `scheduler.step()`
    After:  `scheduler = hdet.OneCycleAutoLR(optimizer, 1e-3, total_steps, <spread, ...>)`,
    `scheduler.step(loss)`, and `scheduler.converge()` before saving or evaluating.

    Make it after `torch.distributed.init_process_group`, on every rank. Constructing and
    reading are local. `step` is collective once every `model_sync_interval` steps, and
    `converge` always; both do nothing but OneCycleLR's work, bit for bit, if the spread is 0
    or there is one replica.

    Args:
        optimizer: any torch optimizer whose update is scaled by `lr`. Under DDP a plain one;
            under FSDP2 on a (replicate, shard) mesh the replicas are the replicate axis.
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
        model_sync_interval: T >= 1, optimizer steps between two averagings.
        auto_lr_warmup_steps: S_warm >= 0, optimizer steps before the controller may act;
            the paper's value is the default, sized for runs of millions of steps.
        enable_auto_lr: whether the controller acts at all.
        loss_scale: sigma > 0, the loss difference that makes a replica's weight e times
            larger; 0.002 by default as in the published code, 0.1 in the paper. It is
            absolute: compare it with the differences in `metrics()["losses"]`.
        lr_of_lr: lambda >= 0, how far the velocity moves the base rate.
        momentum_of_lr: beta in [0, 1) of that velocity.
        rank: this replica, only where no process group is initialised.
        world_size: the number of replicas, likewise.
        model: its floating-point buffers (batch-norm statistics) are averaged too.
        process_group: the replicas, if they are not the mesh's replicate axis or all ranks.
        seed: of the permutations; the same on every rank. The global random state is never
            touched.

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
        process_group: dist.ProcessGroup | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        check_arguments(
            total_steps=total_steps or (epochs or 0) * (steps_per_epoch or 0),
            spread=ensemble_lr_spread_ratio,
            interval=model_sync_interval,
            warmup=auto_lr_warmup_steps,
            auto=enable_auto_lr,
            loss_scale=loss_scale,
            lr_of_lr=lr_of_lr,
            momentum=momentum_of_lr,
            rank=rank,
            world_size=world_size,
        )
        parameters = []
        if ensemble_lr_spread_ratio > 0:
            refuse_lr_free(optimizer, _NAME)
            refuse_sharded_optimizer(optimizer, _NAME)
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
        replicas = find_replicas(parameters, _NAME, process_group, rank, world_size)
        self._ensemble = Ensemble(optimizer, model, replicas, _NAME)
        self._spread = ensemble_lr_spread_ratio
        self._interval = model_sync_interval
        self._warmup = auto_lr_warmup_steps
        self._auto = enable_auto_lr
        self._seed = seed
        # The controller's state. No base values: OneCycle still sets them.
        self._bases: list[float] | None = None
        self._velocities = [0.0] * len(optimizer.param_groups)
        self._acted_at = 0
        self._last_act: dict[str, Any] = {}
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
        self._controller = Controller(loss_scale, lr_of_lr, momentum_of_lr, decay)
        self._constructed = True
        on_load(optimizer, self._reapply)

    # --- what users call

    def step(self, loss: Tensor | float | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Go on by one optimizer step; call it after `optimizer.step()`, on every rank.

        Collective at every `model_sync_interval`-th step if there is a spread over several
        replicas; local otherwise. It never waits for the device between syncs.

        Args:
            loss: this replica's own training loss, not reduced over ranks: a number, or a
                tensor with one element on any device. None if it went to `observe`, or if
                auto-LR is off.

        Raises:
            ValueError: past `total_steps`, where OneCycleLR raises too; or if a parameter
                group was added.
            RuntimeError: on every rank, if auto-LR was never given a loss, if all replicas
                are non-finite, or if replicas were promised and no process group is there.
        """
        if loss is not None:
            self.observe(loss)
        if self._constructed:
            self._before_step(self.last_epoch + 1)
        super().step()

    def observe(self, loss: Tensor | float) -> None:
        """Add the loss of one micro-batch to this interval's mean, without a step. Local.

        For gradient accumulation: call it for every micro-batch, and `step()` without a loss
        once per optimizer step.

        Args:
            loss: as for `step`, and not divided by the number of micro-batches.

        Raises:
            ValueError: if a tensor has more than one element.
        """
        self._ensemble.meter.observe(loss)

    def converge(self) -> None:
        """Average the replicas now, whatever the step: before saving or evaluating.

        Collective: every rank calls it at the same step. The learning rates and the losses of
        the interval stay as they are, and the replicas part again from the common weights.
        Nothing happens if the spread is 0 or there is one replica.

        Raises:
            RuntimeError: on every rank, if all replicas are non-finite.
        """
        if self._exploring:
            self._ensemble.require_connection()
            self._ensemble.sync()

    def metrics(self) -> dict[str, Any]:
        """Return what the last sync found, as plain numbers and lists. Local, on any rank.

        Returns:
            `step`, `syncs`; `base_lr` (per parameter group); `replica_lr` (per group, per
            replica; in effect now); and after the first sync `losses`, `weights` (empty
            unless the controller acted), `divergence` per replica; `delta`, `velocity` per
            group; `sync_ms`; `masked` (replicas), `masked_total` (count per replica).
        """
        return {
            "step": self.last_epoch,
            "base_lr": list(self._base_now),
            "replica_lr": self._replica_lrs(),
            "velocity": list(self._velocities),
            **self._ensemble.metrics(),
            **self._last_act,
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
        self._base_now = [float(lr) for lr in (self._bases or schedule)]
        if not self._exploring:
            return schedule
        rank = self._ensemble.replicas.rank
        rows = zip(self._base_now, self._rhos(), strict=True)
        return [base * row[rank] for base, row in rows]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers that load with `weights_only=True`. Local.

        Everything but `local` is the same on every rank, so one rank's copy serves all. In
        the middle of an interval the replicas' weights differ: either each rank saves its
        own weights and state, and the resumed run is the same to the last bit; or call
        `converge()` and save one copy.
        """
        return {
            "format": 1,
            "last_epoch": self.last_epoch,
            "total_steps": self.total_steps,
            "base_lrs": None if self._bases is None else list(self._bases),
            "velocities": list(self._velocities),
            "acted_at": self._acted_at,
            "seed": self._seed,
            "ensemble": self._ensemble.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, and set the optimizer's rates to this replica's. Local.

        Loads on another number of replicas: the spread is laid anew over them. Losses of an
        unfinished interval are taken up only by the rank that saved them.

        Args:
            state_dict: from `state_dict()` of a scheduler with the same number of steps and
                parameter groups.

        Raises:
            ValueError: if it does not fit; then nothing has changed.
        """
        check_state(state_dict, self.total_steps, len(self._velocities))
        bases = state_dict["base_lrs"]
        self._bases = None if bases is None else [float(b) for b in bases]
        self._velocities = [float(v) for v in state_dict["velocities"]]
        self._acted_at = int(state_dict["acted_at"])
        self._seed = int(state_dict["seed"])
        self._last_act = {}
        self._ensemble.load_state_dict(state_dict["ensemble"])
        self.last_epoch = int(state_dict["last_epoch"])
        self._step_count = self.last_epoch + 1
        self._apply()

    # --- internals

    @property
    def _exploring(self) -> bool:
        """Whether anything differs from OneCycleLR."""
        return self._spread > 0 and self._ensemble.replicas.size > 1

    def _rhos(self) -> list[list[float]]:
        """Return the multiplier in effect for each parameter group and replica."""
        acted_at = None if self._bases is None else self._acted_at
        size, groups = self._ensemble.replicas.size, len(self._velocities)
        return group_multipliers(size, self._spread, groups, self._seed, acted_at)

    def _replica_lrs(self) -> list[list[float]]:
        """Return eta_r for each parameter group and replica, as in effect now."""
        rows = zip(self._base_now, self._rhos(), strict=True)
        return [[base * rho for rho in row] for base, row in rows]

    def _before_step(self, step: int) -> None:
        """Check, and sync if it is due, ahead of the rates for optimizer step `step`."""
        if step > self.total_steps:
            raise ValueError(
                f"{where()}Tried to step {step} times. The specified number of total steps "
                f"is {self.total_steps}: make the scheduler with the run's whole length."
            )
        groups = len(self.optimizer.param_groups)
        if groups != len(self._velocities):
            raise ValueError(
                f"{where()}`{_NAME}` was made for {len(self._velocities)} parameter groups "
                f"and the optimizer now has {groups}: add groups before making the scheduler."
            )
        if self._exploring:
            self._ensemble.count_step()
            if step % self._interval == 0:
                self._sync(step)

    def _sync(self, step: int) -> None:
        """Converge, and let the controller act if its time has come."""
        found = self._ensemble.sync()
        self._ensemble.meter.reset()
        acts = self._auto and step >= self._warmup
        if self._auto and not self._ensemble.ever_given_a_loss:
            if acts:
                raise RuntimeError(no_loss_message(_NAME))
            if step == self._interval:
                warnings.warn(no_loss_message(_NAME), stacklevel=4)
        if acts:
            self._act(found.losses)
            self._acted_at = step // self._interval

    def _act(self, losses: list[float]) -> None:
        """Move the base rate of every group, equation (4)."""
        weights = softmax_weights(losses, self._controller.loss_scale)
        updates = [
            self._controller.update(velocity, rates, weights)
            for velocity, rates in zip(self._velocities, self._replica_lrs(), strict=True)
        ]
        self._velocities = [update.velocity for update in updates]
        self._bases = [update.base for update in updates]
        self._last_act = {
            "weights": weights,
            "delta": [update.delta for update in updates],
            "floored": [update.floored for update in updates],
        }

    def _reapply(self) -> None:
        """Keep the spread where every rank loads the optimizer that rank 0 saved."""
        if self._exploring:
            self._apply()

    def _apply(self) -> None:
        """Set the optimizer's rates and momenta to what they are at this step."""
        self._get_lr_called_within_step = True
        try:
            rates = self.get_lr()
        finally:
            self._get_lr_called_within_step = False
        set_rates(self.optimizer, rates)
        self._last_lr = list(rates)

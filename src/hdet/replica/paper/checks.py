"""What `OneCycleAutoLR` demands of its arguments and of a checkpoint.

Each message names the argument, the rule, the value and the remedy. The checks look only at
what is the same on every rank, so that an error on one is an error on all.
"""

import math
import warnings
from typing import Any

from ...errors import require, where

_NAME = "OneCycleAutoLR"
_RATES = ("initial_lr", "max_lr", "min_lr")
_MOMENTA = ("max_momentum", "base_momentum")
# Acts of the controller; with fewer, the decay takes over a quarter of the rate at each.
_FEW = 20


def check_arguments(
    *,
    total_steps: int,
    spread: float,
    interval: int,
    warmup: int,
    auto: bool,
    loss_scale: float,
    lr_of_lr: float,
    momentum: float,
    seed: int,
    max_lr: Any,
    rank: int,
    world_size: int,
) -> None:
    """Raise a `ValueError` for the first argument that breaks its rule."""

    def rule(holds: bool, argument: str, value: object, must: str, remedy: str) -> None:
        require(holds, _NAME, argument, value, must, remedy)

    rule(
        0 <= spread < 1,
        "ensemble_lr_spread_ratio",
        spread,
        "must lie in [0, 1), or a replica's rate would not be positive",
        "the paper uses 1/9; use 0 for plain OneCycleLR",
    )
    rule(
        isinstance(interval, int) and not isinstance(interval, bool) and interval >= 1,
        "model_sync_interval",
        interval,
        "must be a whole number of at least 1",
        "count optimizer steps; to train without averaging, use ensemble_lr_spread_ratio=0",
    )
    rule(
        0 < loss_scale < math.inf,
        "loss_scale",
        loss_scale,
        "must be above 0 and finite",
        "start from the spread of the replicas' losses, `metrics()['losses']`",
    )
    rule(
        0 <= momentum < 1,
        "momentum_of_lr",
        momentum,
        "must lie in [0, 1), or the velocity would never follow the losses",
        "the paper uses 0.9; use 0 for no memory",
    )
    rule(
        0 <= lr_of_lr < math.inf,
        "lr_of_lr",
        lr_of_lr,
        "must be at least 0 and finite, or the rate would move towards the worse replicas",
        "the paper uses 0.5",
    )
    rates = max_lr if isinstance(max_lr, (list, tuple)) else [max_lr]
    rule(
        all(0 <= float(rate) < math.inf for rate in rates),
        "max_lr",
        max_lr,
        "must be finite and at least 0",
        "give the peak of the schedule, one number or one per parameter group",
    )
    rule(
        isinstance(seed, int),
        "seed",
        seed,
        "must be a whole number",
        "leave it out for 0",
    )
    rule(
        warmup >= 0,
        "auto_lr_warmup_steps",
        warmup,
        "must be at least 0",
        "count optimizer steps from the start",
    )
    rule(
        not auto or spread > 0,
        "enable_auto_lr",
        auto,
        "needs replicas with different rates",
        "set ensemble_lr_spread_ratio, to 1/9 as in the paper for instance",
    )
    # OneCycleLR itself reports a missing or impossible number of steps.
    rule(
        not auto or total_steps < 1 or warmup < total_steps,
        "auto_lr_warmup_steps",
        warmup,
        f"must be below the run's {total_steps} steps, or the controller would never act",
        f"try a fifth of the run, {max(total_steps // 5, 0)}",
    )
    rule(
        world_size >= 1,
        "world_size",
        world_size,
        "must be at least 1",
        "leave it out: it comes from the process group",
    )
    rule(
        0 <= rank < max(world_size, 1),
        "rank",
        rank,
        f"must lie in [0, {world_size})",
        "leave it out: it comes from the process group",
    )


def warn_of_few_intervals(total_steps: int, warmup: int, interval: int) -> None:
    """Warn where the controller acts too seldom to find anything before the rate is gone."""
    acts = (total_steps - warmup) // interval
    if acts < _FEW:
        warnings.warn(
            f"{where()}`{_NAME}(enable_auto_lr=True)` acts at only {acts} syncs in this run, "
            f"fewer than {_FEW}: the built-in decay takes much of the rate at each, and "
            f"the losses say little. Use "
            f"model_sync_interval={max((total_steps - warmup) // 100, 1)}, or a longer run.",
            stacklevel=3,
        )


def no_loss_message() -> str:
    """Return what to say where auto-LR was never given a loss."""
    return (
        f"{where()}`{_NAME}(enable_auto_lr=True)` has been given no loss by any replica: call "
        f"`scheduler.step(loss)` with this replica's own training loss, or `observe(loss)` "
        f"for every micro-batch."
    )


def no_finite_loss_message(replicas: int) -> str:
    """Return what to say where losses were given and none of them is finite."""
    return (
        f"{where()}The losses of all {replicas} replicas are NaN or infinite since the last "
        f"sync. Load the last checkpoint and lower the learning rate, clip gradients, or look "
        f"for bad data."
    )

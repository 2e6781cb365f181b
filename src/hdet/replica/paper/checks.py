"""What `OneCycleAutoLR` demands of its arguments, and what it says when it can't go on.

The checks look only at what is the same on every rank, so that an error on one rank is an
error on all.
"""

import warnings
from typing import Any

from ...errors import Limits, require, require_number, require_whole, where

_NAME = "OneCycleAutoLR"
# With fewer updates by the controller, the decay takes over a quarter of the rate at each.
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

    def number(argument: str, value: object, remedy: str, **limits: float) -> None:
        require_number(_NAME, argument, value, remedy, **limits)

    number(
        "ensemble_lr_spread_ratio",
        spread,
        "use 1/9 as in the paper, or 0 for plain OneCycleLR; at 1 a replica's rate would be 0",
        low=0,
        below=1,
    )
    require_whole(
        _NAME,
        "model_sync_interval",
        interval,
        "count optimizer steps; to train without averaging, use ensemble_lr_spread_ratio=0",
        low=1,
    )
    remedy = "start from the spread of the replicas' losses, `metrics()['losses']`"
    number("loss_scale", loss_scale, remedy, above=0)
    remedy = "use 0.9 as in the paper, or 0 for no memory; at 1 the velocity would never change"
    number("momentum_of_lr", momentum, remedy, low=0, below=1)
    remedy = "use 0.5 as in the paper; below 0 the rate would move towards the worse replicas"
    number("lr_of_lr", lr_of_lr, remedy, low=0)
    rates, allowed = max_lr if isinstance(max_lr, list | tuple) else [max_lr], Limits(low=0)
    require(
        all(float(rate) in allowed for rate in rates),
        _NAME,
        "max_lr",
        max_lr,
        str(allowed),
        "give the peak of the schedule, one number or one per parameter group",
    )
    require(isinstance(seed, int), _NAME, "seed", seed, "must be a whole number", "try 0")
    remedy = "count optimizer steps from the start"
    number("auto_lr_warmup_steps", warmup, remedy, low=0, finite=False)
    require(
        not auto or spread > 0,
        _NAME,
        "enable_auto_lr",
        auto,
        "needs replicas with different rates",
        "set ensemble_lr_spread_ratio, for instance to 1/9 as in the paper",
    )
    # OneCycleLR itself reports a missing or impossible number of steps.
    require(
        not auto or total_steps < 1 or warmup < total_steps,
        _NAME,
        "auto_lr_warmup_steps",
        warmup,
        f"must be below the run's {total_steps} steps, or the controller would never act",
        f"try a fifth of the run, {max(total_steps // 5, 0)}",
    )
    remedy = "leave it out: it comes from the process group"
    require_whole(_NAME, "world_size", world_size, remedy, low=1)
    number("rank", rank, remedy, low=0, below=world_size)


def warn_of_few_intervals(total_steps: int, warmup: int, interval: int) -> None:
    """Warn where the controller acts too seldom to find anything before the rate is gone."""
    acts = (total_steps - warmup) // interval
    if acts < _FEW:
        warnings.warn(
            f"{where()}`{_NAME}(enable_auto_lr=True)` acts at only {acts} syncs in this run, "
            f"fewer than {_FEW}: the built-in decay takes much of the rate at each, and the "
            f"losses say little. Use "
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

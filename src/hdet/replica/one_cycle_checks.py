"""What `OneCycleAutoLR` demands of its arguments and of a checkpoint.

Each message names the argument, the rule, the value and the remedy. The checks look only at
what is the same on every rank, so that an error on one is an error on all.
"""

from typing import Any

from ..errors import require, where
from .state_checks import ENSEMBLE, require_entries

_NAME = "OneCycleAutoLR"


# What a state must hold; a dictionary stands for one inside it.
_STATE: dict[str, Any] = {
    "last_epoch": None,
    "total_steps": None,
    "base_lrs": None,
    "velocities": None,
    "acted_at": None,
    "seed": None,
    "ensemble": ENSEMBLE,
}


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
        isinstance(interval, int) and interval >= 1,
        "model_sync_interval",
        interval,
        "must be a whole number of at least 1",
        "count optimizer steps; to train without averaging, use ensemble_lr_spread_ratio=0",
    )
    rule(
        loss_scale > 0,
        "loss_scale",
        loss_scale,
        "must be above 0",
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
        lr_of_lr >= 0,
        "lr_of_lr",
        lr_of_lr,
        "must be at least 0, or the rate would move towards the worse replicas",
        "the paper uses 0.5",
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


def check_state(state: Any, total_steps: int, groups: int) -> None:
    """Raise a `ValueError` if a checkpoint is not of this kind of run."""
    require_entries(state, _STATE, _NAME)
    if state["total_steps"] != total_steps:
        raise ValueError(
            f"{where()}`{_NAME}.load_state_dict` got the state of a run of "
            f"{state['total_steps']} steps, and this one has {total_steps}: make the "
            f"scheduler with total_steps={state['total_steps']}."
        )
    if len(state["velocities"]) != groups:
        raise ValueError(
            f"{where()}`{_NAME}.load_state_dict` got the state of "
            f"{len(state['velocities'])} parameter groups, and the optimizer has {groups}: "
            f"build the optimizer with the same groups."
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

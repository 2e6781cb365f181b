"""Set-ups in which per-replica learning rates would silently mean something else.

Each is refused in words, with the remedy, when the scheduler is made: on every rank, since
every rank looks at the same thing, and before any collective.
"""

import inspect
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ...errors import require, where

SHARDED = (
    "Each rank updates its own shard, so a rate per rank would be a rate per shard. Use "
    "DistributedDataParallel with a plain optimizer, or FSDP2's fully_shard on a 2-D "
    "(replicate, shard) mesh."
)
_SHARDED = (
    "ZeroRedundancyOptimizer",
    "DeepSpeedZeroOptimizer",
    "ZeROOptimizer",
    "BF16_Optimizer",
    "DistributedFused",
    "DistributedOptimizer",
)
_ESTIMATE_THEIR_OWN_LR = ("Prodigy", "DAdapt", "DoG", "DoWG", "Mechanic")


def unwrapped(optimizer: Any, call: str) -> Optimizer:
    """Return the optimizer inside transparent wrappers, whose groups are the very same.

    Accelerate, Lightning and DeepSpeed wrap an optimizer in an object that passes on its
    parameter groups; what steps, and has the state, is inside.

    Args:
        optimizer: what the user gave.
        call: the public name to put into errors.

    Raises:
        ValueError: for a container of several optimizers.
        TypeError: if it is no optimizer.
    """
    inner = _inside(optimizer)
    while inner is not None:
        optimizer, inner = inner, _inside(inner)
    parts = None
    for name in ("optimizers", "chained_optimizers"):
        parts = getattr(optimizer, name, parts)
    if isinstance(parts, (list, tuple, dict)):
        raise ValueError(
            f"{where()}`{call}` got {type(optimizer).__name__}, a container of {len(parts)} "
            f"optimizers: a rate that is set on it does not reach what steps. Make one "
            f"scheduler for each optimizer inside, and step them all."
        )
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{where()}{type(optimizer).__name__} is not an Optimizer")
    return optimizer


def _inside(optimizer: Any) -> Any:
    """Return what a transparent wrapper holds; None where it is none."""
    inner = getattr(optimizer, "optimizer", None)
    outer_groups = getattr(optimizer, "param_groups", None)
    groups = getattr(inner, "param_groups", None)
    if not isinstance(groups, list) or not isinstance(outer_groups, list):
        return None
    return inner if list(map(id, groups)) == list(map(id, outer_groups)) else None


def refuse_unfit(optimizer: Any, call: str) -> None:
    """Raise where a rate per replica would mean something else, or nothing.

    Args:
        optimizer: what the user gave, with its wrappers.
        call: the public name to put into errors.

    Raises:
        ValueError: for an optimizer that updates a part of the parameters on each rank, as
            ZeRO does, or that evaluates the model itself, as LBFGS does.
    """
    layer = optimizer
    while layer is not None:
        for cls in type(layer).__mro__:
            if cls.__name__.startswith(_SHARDED):
                raise ValueError(
                    f"{where()}`{call}` does not work with {cls.__name__}. {SHARDED}"
                )
        layer = _inside(layer)
    inner = unwrapped(optimizer, call)
    name = type(inner).__name__
    closure = inspect.signature(type(inner).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{where()}`{call}` does not work with {name}: it evaluates the model several "
            f"times a step, at points of its own on each replica, and its state goes by the "
            f"path that these took. Use AdamW, Adam or SGD."
        )


def require_rates(optimizer: Optimizer, call: str) -> None:
    """Raise where a parameter group has no learning rate.

    Raises:
        ValueError: for a rate of None, as Adafactor takes it.
    """
    for index, group in enumerate(optimizer.param_groups):
        if group.get("lr") is None:
            raise ValueError(
                f"{where()}`{call}`: parameter group {index} of {type(optimizer).__name__} "
                f"has lr=None: there is no rate to explore, or to schedule. Give the optimizer "
                f"one, as in `Adafactor(..., lr=1e-3, relative_step=False)`."
            )


def refuse_epoch(call: str, epoch: object) -> None:
    """Raise a `ValueError` where a scheduler is told to jump to a step."""
    require(
        epoch is None,
        f"{call}.step",
        "epoch",
        epoch,
        "cannot be set: the replicas meet by the number of steps taken",
        "leave it out; to go on from a checkpoint use load_state_dict",
    )


def refuse_lr_free(optimizer: Optimizer, call: str, without: str = "spread 0") -> None:
    """Raise where the optimizer estimates its learning rate from the weights.

    Args:
        optimizer: the optimizer.
        call: the public name to put into the error.
        without: what to write to leave its rate alone.

    Raises:
        ValueError: for Prodigy, D-Adaptation, DoG and their kin.
    """
    name = type(optimizer).__name__
    if name.startswith(_ESTIMATE_THEIR_OWN_LR) or name == "LDoG":
        raise ValueError(
            f"{where()}`{call}` cannot spread the learning rate of {name}: it estimates a "
            f"rate of its own from each replica's weights, and the estimates run apart. "
            f"Use AdamW, Adam or SGD; or {without}, which leaves {name} alone."
        )


def unwrapped_schedule(scheduler: Any) -> Any:
    """Return the torch scheduler inside a wrapper such as Accelerate's, or what was given."""
    inner = getattr(scheduler, "scheduler", None)
    known = (LRScheduler, ReduceLROnPlateau)
    return inner if isinstance(inner, known) and not isinstance(scheduler, known) else scheduler

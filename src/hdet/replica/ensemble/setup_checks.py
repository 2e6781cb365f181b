"""Set-ups in which per-replica learning rates would silently mean something else.

Each is refused with its remedy when the scheduler is made: on every rank, since all ranks look
at the same thing, and before any collective. `call` is the public name for errors.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
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
_STEP_COPIES = ("FP16_Optimizer", "FP16_UnfusedOptimizer")
_ESTIMATE_THEIR_OWN_LR = ("Prodigy", "DAdapt", "DoG", "DoWG", "Mechanic")


def unwrapped(optimizer: Any, call: str) -> Optimizer:
    """Return the optimizer inside transparent wrappers, which have its very groups.

    Accelerate, Lightning and DeepSpeed wrap an optimizer in an object that passes on its
    parameter groups; the optimizer inside takes the steps and has the state.

    Raises:
        ValueError: for a container of several optimizers, or one of DeepSpeed's that shard.
        TypeError: if it is not an optimizer.
    """
    *_, optimizer = _layers(optimizer)
    parts = getattr(optimizer, "optimizers", getattr(optimizer, "chained_optimizers", None))
    if isinstance(parts, list | tuple | dict):
        raise ValueError(
            f"{where()}`{call}` got {type(optimizer).__name__}, a container of {len(parts)} "
            f"optimizers: setting its rate does not affect them. Make one scheduler "
            f"for each optimizer inside, and step them all."
        )
    if not isinstance(optimizer, Optimizer):
        _refuse_partial(optimizer, call)
        raise TypeError(f"{where()}{type(optimizer).__name__} is not an Optimizer")
    if not hasattr(optimizer, "_optimizer_step_post_hooks"):
        raise TypeError(
            f"{where()}`{call}` got {type(optimizer).__name__}, which wraps an optimizer and "
            f"calls none of its hooks, as torchft's does: give the optimizer inside."
        )
    return optimizer


def _layers(optimizer: Any) -> Iterator[Any]:
    """Yield what the user gave, and what its transparent wrappers hold, from outside in."""
    while True:
        yield optimizer
        inner = getattr(optimizer, "optimizer", None)
        outer_groups = getattr(optimizer, "param_groups", None)
        groups = getattr(inner, "param_groups", None)
        if not isinstance(groups, list) or not isinstance(outer_groups, list):
            return
        if list(map(id, groups)) != list(map(id, outer_groups)):
            return
        optimizer = inner


def refuse_unfit(optimizer: Any, call: str) -> None:
    """Raise where a rate per replica would mean something else, or nothing.

    Raises:
        ValueError: for an optimizer that updates a part of the parameters on each rank, as
            ZeRO does, or that evaluates the model itself, as LBFGS does.
    """
    for layer in _layers(optimizer):
        _refuse_partial(layer, call)
    kind = type(unwrapped(optimizer, call))
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{where()}`{call}` does not work with {kind.__name__}: it evaluates the model "
            f"several times a step, at other points on each replica, and its state depends on "
            f"them. Use AdamW, Adam or SGD."
        )


def _refuse_partial(layer: Any, call: str) -> None:
    """Raise where an optimizer's parameters are not the model's own, whole ones."""
    for cls in type(layer).__mro__:
        if cls.__name__.startswith(_SHARDED):
            raise ValueError(f"{where()}`{call}` does not work with {cls.__name__}. {SHARDED}")
        if cls.__name__.startswith(_STEP_COPIES):
            raise ValueError(
                f"{where()}`{call}` does not work with {cls.__name__}: it steps copies of the "
                f"weights, and what is averaged would not reach the model. Use torch.autocast."
            )


def require_rates(optimizer: Optimizer, call: str) -> None:
    """Raise a `ValueError` where a parameter group has lr=None, as Adafactor allows."""
    for index, group in enumerate(optimizer.param_groups):
        if group.get("lr") is None:
            raise ValueError(
                f"{where()}`{call}`: parameter group {index} of {type(optimizer).__name__} "
                f"has lr=None, so there is no rate to explore or schedule. Give the optimizer "
                f"one, as in `Adafactor(..., lr=1e-3, relative_step=False)`."
            )


def refuse_epoch(call: str, epoch: object) -> None:
    """Raise a `ValueError` where a scheduler is told to jump to a step."""
    if epoch is None:
        return
    rule = "cannot be set: syncs go by the number of steps taken"
    remedy = "leave it out; to go on from a checkpoint use load_state_dict"
    require(False, f"{call}.step", "epoch", epoch, rule, remedy)


def refuse_lr_free(optimizer: Optimizer, call: str, without: str = "spread 0") -> None:
    """Raise a `ValueError` where the optimizer estimates its learning rate from the weights.

    Those are Prodigy, D-Adaptation, DoG and their kin; `without` is what to write to leave
    their rate alone.
    """
    name = type(optimizer).__name__
    if name.startswith(_ESTIMATE_THEIR_OWN_LR) or name == "LDoG":
        raise ValueError(
            f"{where()}`{call}` cannot spread the learning rate of {name}: it estimates a "
            f"rate of its own from each replica's weights, and the estimates diverge. Use "
            f"AdamW, Adam or SGD; or {without}, which leaves {name} alone."
        )


def unwrapped_schedule(scheduler: Any, call: str) -> Any:
    """Return the torch scheduler inside a wrapper such as Accelerate's, or what was given.

    Raises:
        ValueError: where the wrapper steps it several times for one optimizer step, so that
            the length of its schedule is another.
    """
    inner = getattr(scheduler, "scheduler", None)
    known = (LRScheduler, ReduceLROnPlateau)
    if not isinstance(inner, known) or isinstance(scheduler, known):
        return scheduler
    connected = dist.is_available() and dist.is_initialized()
    processes = dist.get_world_size() if connected else 1
    # Accelerate's own rule.
    once = not getattr(scheduler, "step_with_optimizer", False) or scheduler.split_batches
    if processes > 1 and not once:
        raise ValueError(
            f"{where()}`{call}` got a {type(inner).__name__} that Accelerate has prepared, and "
            f"steps {processes} times, once per process, for every optimizer step; it would be "
            f"stepped once here. Take it out of `prepare()` and give its length in optimizer "
            f"steps; or make the Accelerator with `step_scheduler_with_optimizer=False`."
        )
    return inner

"""Set-ups in which per-replica learning rates would silently mean something else.

Each is refused in words, with the remedy, when the scheduler is made: on every rank, since
every rank looks at the same thing, and before any collective.
"""

from torch.optim import Optimizer

from ..errors import require, where

SHARDED = (
    "Each rank updates its own shard, so a rate per rank would be a rate per shard. Use "
    "DistributedDataParallel with a plain optimizer, or FSDP2's fully_shard on a 2-D "
    "(replicate, shard) mesh."
)
_SHARDED = ("ZeroRedundancyOptimizer", "DeepSpeedZeroOptimizer")
_ESTIMATE_THEIR_OWN_LR = ("Prodigy", "DAdapt", "DoG", "DoWG", "Mechanic")


def refuse_sharded_optimizer(optimizer: Optimizer, call: str) -> None:
    """Raise where each rank updates only its own part of the parameters.

    Raises:
        ValueError: for ZeroRedundancyOptimizer and DeepSpeed's ZeRO.
    """
    for cls in type(optimizer).__mro__:
        if cls.__name__.startswith(_SHARDED):
            raise ValueError(f"{where()}`{call}` does not work with {cls.__name__}. {SHARDED}")


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

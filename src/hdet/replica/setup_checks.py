"""Set-ups in which per-replica learning rates would silently mean something else.

Each is refused in words, with the remedy, when the scheduler is made: on every rank, since
every rank looks at the same thing, and before any collective.
"""

import weakref

from torch.optim import Optimizer

from ..errors import where

_ESTIMATE_THEIR_OWN_LR = ("Prodigy", "DAdapt", "DoG", "DoWG", "Mechanic")


def refuse_sharded_optimizer(optimizer: Optimizer, call: str) -> None:
    """Raise where each rank updates only its own part of the parameters.

    Raises:
        ValueError: for ZeroRedundancyOptimizer and for FSDP1's flat parameters.
    """
    remedy = (
        "Each rank updates its own shard, so a rate per rank would be a rate per shard. "
        "Use DistributedDataParallel with a plain optimizer, or FSDP2's fully_shard on a "
        "2-D (replicate, shard) mesh."
    )
    if any(c.__name__ == "ZeroRedundancyOptimizer" for c in type(optimizer).__mro__):
        raise ValueError(
            f"{where()}`{call}` does not work with ZeroRedundancyOptimizer. {remedy}"
        )
    for group in optimizer.param_groups:
        if any(type(p).__name__ == "FlatParameter" for p in group["params"]):
            raise ValueError(
                f"{where()}`{call}` does not work with FullyShardedDataParallel (FSDP1). "
                f"{remedy}"
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


class SteppingGuard:
    """Notices a scheduler that is stepped several times for each optimizer step.

    Accelerate does that to a scheduler it has prepared, once per process: the schedule
    would run N times too fast. A GradScaler that skips optimizer steps looks alike for a
    moment, so the pattern has to come three times in a row.
    """

    _ROW = 3

    def __init__(self, optimizer: Optimizer) -> None:
        self._calls = 0
        self._row = 0
        me = weakref.ref(self)

        def count(*_: object) -> None:
            guard = me()
            if guard is not None:
                guard._row = guard._row + 1 if guard._calls > 1 else 0
                guard._calls = 0

        optimizer.register_step_post_hook(count)

    def scheduler_stepped(self, call: str) -> None:
        """Count one call of the scheduler's `step`.

        Raises:
            RuntimeError: once the pattern is certain.
        """
        self._calls += 1
        if self._calls > 1 and self._row >= self._ROW:
            raise RuntimeError(
                f"{where()}`{call}.step` is called several times for every optimizer step, "
                f"so the schedule would end early. Under Accelerate, do not pass the "
                f"scheduler to `prepare()`, or make the Accelerator with "
                f"`step_scheduler_with_optimizer=False`."
            )

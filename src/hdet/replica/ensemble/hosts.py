"""Frameworks around the training loop: what each needs beside the scheduler, or does to it.

Where a framework owns the loop, a callback of ours has to stand beside the scheduler. Without
it a run goes through, and is wrong: the framework evaluates and saves one replica. So a
scheduler that is stepped by one of them says what is missing, once, at its first step.

Accelerate and Fabric leave the loop to the user, and save what they find on rank 0. Accelerate
makes `optimizer.step()` do nothing at the micro-batches of `accumulate()`.
"""

import sys
import warnings
from collections.abc import Iterator

from ...errors import where

# By the beginning of the name of the module that runs the loop: what to add.
_LIGHTNING = "`Trainer(callbacks=[hdet.integrations.lightning.HDETCallback()])`"
_TRANSFORMERS = (
    "`trainer.add_callback(hdet.integrations.transformers.HDETCallback(trainer, "
    "probe_dataset))`, which makes the Explorer itself"
)
_NEEDED = {
    "lightning.pytorch.loops.": _LIGHTNING,
    "pytorch_lightning.loops.": _LIGHTNING,
    "transformers.trainer": _TRANSFORMERS,
}

# By the name of the module that asks for a state: what users call to save.
_SAVING = {
    "accelerate.checkpointing": "accelerator.save_state",
    "lightning.fabric.strategies.strategy": "fabric.save",
    "lightning_fabric.strategies.strategy": "fabric.save",
}


def warn_of_missing_callback(name: str) -> None:
    """Warn if a framework's loop is among the callers, whose callback has not been seen. Local.

    Args:
        name: of the scheduler, for the warning.
    """
    for module in _callers():
        needed = next((n for start, n in _NEEDED.items() if module.startswith(start)), None)
        if needed is not None:
            warnings.warn(
                f"{where()}`{name}` is stepped by {module} without hdet's "
                f"callback, so validation and checkpoints get the weights of one replica, and "
                f"no loss comes here: add {needed}.",
                stacklevel=2,
            )
            return


def check_saving(name: str, converged: bool, split: bool) -> None:
    """See to what a framework that saves on rank 0 asks for while replicas differ. Local.

    Warns outside `converged()`.

    Args:
        name: of the scheduler, for the message.
        converged: whether the replicas are one.
        split: whether a replica is several processes, each with a part of the state.

    Raises:
        RuntimeError: if rank 0 would save its own part for all.
    """
    call = next((_SAVING[module] for module in _callers() if module in _SAVING), None)
    if call is None:
        return
    if split:
        raise RuntimeError(
            f"{where()}`{call}` saves the scheduler's state of rank 0 alone, and where the "
            f"model is sharded `{name}` has a part of it on every rank. Save it by itself "
            f"inside `converged()`: give `scheduler.state_dict()` to "
            f"torch.distributed.checkpoint, and register or save no scheduler here."
        )
    if not converged:
        warnings.warn(
            f"{where()}`{call}` was called outside `{name}.converged()`: it saves the weights "
            f"of rank 0's replica, not the mean. Write `with scheduler.converged(): "
            f"{call}(...)`, on every rank.",
            stacklevel=2,
        )


def only_accumulates() -> bool:
    """Return whether Accelerate's `accumulate()` holds the optimizer's step back now. Local."""
    state = getattr(sys.modules.get("accelerate.state"), "GradientState", None)
    return state is not None and not state._shared_state.get("sync_gradients", True)


def _callers() -> Iterator[str]:
    """Yield the names of the modules whose code is running, from inside out."""
    frame = sys._getframe()
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back

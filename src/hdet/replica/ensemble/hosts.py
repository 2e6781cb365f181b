"""Frameworks that own the training loop: each needs a callback of ours beside the scheduler.

Without it a run goes through, and is wrong: the framework evaluates and saves one replica. So a
scheduler that is stepped by one of them says what is missing, once, at its first step.
"""

import sys
import warnings

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


def warn_of_missing_callback(name: str) -> None:
    """Warn if a framework's loop is among the callers, whose callback has not been seen. Local.

    Args:
        name: of the scheduler, for the warning.
    """
    frame = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        needed = next((n for start, n in _NEEDED.items() if module.startswith(start)), None)
        if needed is not None:
            warnings.warn(
                f"{where()}`{name}` is stepped by {module} without hdet's "
                f"callback, so validation and checkpoints get the weights of one replica, and "
                f"no loss comes here: add {needed}.",
                stacklevel=2,
            )
            return
        frame = frame.f_back

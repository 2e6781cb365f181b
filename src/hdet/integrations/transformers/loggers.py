"""What Explorer finds, to whatever a Trainer reports to: `report_to="wandb"` and the like.

The Trainer's trackers are callbacks. Those that print are passed over: forty numbers at each
sync are no reading matter.
"""

import copy
from typing import Any

from transformers import PrinterCallback, ProgressCallback

from ..trackers import Tracker

_PRINTING = (PrinterCallback, ProgressCallback)


class TrainerLoggers(Tracker):
    """Logs to a Trainer's trackers, which take numbers alone.

    Args:
        trainer: a `transformers.Trainer`.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__()
        self._trainer = trainer

    def numbers(self, found: dict[str, float], step: int) -> None:
        """See `Tracker.numbers`.

        Args:
            found: by name.
            step: optimizer steps so far.
        """
        trainer = self._trainer
        state = copy.copy(trainer.state)
        state.global_step = step  # the Trainer counts the step only after the scheduler's
        for callback in trainer.callback_handler.callbacks:
            if not isinstance(callback, _PRINTING):
                callback.on_log(
                    trainer.args, state, trainer.control, logs=dict(found), model=trainer.model
                )

    def words(self, event: str, step: int) -> None:
        """Do nothing.

        Args:
            event: one line.
            step: optimizer steps so far.
        """

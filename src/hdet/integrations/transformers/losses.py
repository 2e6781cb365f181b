"""The loss of one optimizer step on this rank, at its true scale.

What `Trainer.training_step` returns is made for adding up: over the micro-batches of a step
it sums to the step's mean. Only with `average_tokens_across_devices`, the default, is the
divisor not this rank's: it is the number of tokens of all ranks, over the number of ranks. A
rank whose texts are long would seem to have a larger loss than one whose texts are short.

Source: `training_step`, `compute_loss` and `_get_num_items_in_batch` of transformers 5.24.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

_IGNORED = -100  # the label of tokens that have no loss


class StepLoss:
    """Adds up a step's losses without waiting for the device.

    Args:
        trainer: whose settings say how its losses are scaled.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._clear()

    def _clear(self) -> None:
        self._sum: Tensor | float = 0.0
        self._own: Tensor | int = 0
        self._of_all: Tensor | None = None

    def add(self, loss: Tensor, inputs: dict[str, Any], items: Tensor | int | None) -> None:
        """Take in a micro-batch.

        Args:
            loss: as `training_step` returned it.
            inputs: of that call.
            items: its `num_items_in_batch`.
        """
        self._sum = self._sum + loss.detach()
        args = self._trainer.args
        if args.average_tokens_across_devices and args.world_size > 1 and items is not None:
            self._own = self._own + self._count(inputs)
            self._of_all = torch.as_tensor(items)

    def take(self) -> Tensor | float:
        """Return the mean loss of the step on this rank, and begin the next."""
        loss = self._sum
        if self._of_all is not None:
            own = torch.as_tensor(self._own).clamp(min=1)  # without tokens the sum is 0
            loss = loss * (self._of_all / (self._trainer.args.world_size * own))
        self._clear()
        return loss

    def _count(self, inputs: dict[str, Any]) -> Tensor:
        """Return the tokens of a micro-batch that have a loss, as the Trainer counts them."""
        labels = inputs.get("shift_labels")
        if labels is None:
            labels = inputs["labels"]
            if getattr(self._trainer, "_loss_shifts_labels", False):
                labels = labels[..., 1:]
        return labels.ne(_IGNORED).sum()

"""The losses that Explorer sees: this rank's own of a step, and the probe's.

torchtitan divides each micro-batch's loss by the tokens of all ranks, so that gradients add up
right. It is far too small for a replica's loss then, and a rank with long texts would seem to
have a larger one. Here losses are means over this rank's own tokens.

Source: `Trainer.train_step` and `Validator.validate` of torchtitan 0.3.
"""

# pyright: reportMissingImports=false

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.trainer import Trainer

from ...replica import probe

_Batch = tuple[dict[str, Tensor], Tensor]


class StepLoss:
    """Adds up a step's losses without waiting for the device."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._tokens: Tensor | int = 0

    def add(self, loss: Tensor, labels: Tensor, global_valid_tokens: Tensor) -> None:
        """Take in a micro-batch.

        Args:
            loss: the sum over its tokens, divided by those of all ranks.
            labels: of the micro-batch.
            global_valid_tokens: by what the loss was divided.
        """
        # A CUDA graph writes the next loss over this one, so it is multiplied now.
        self._sum = self._sum + loss.detach() * global_valid_tokens
        self._tokens = self._tokens + _valid(labels)

    def take(self) -> Tensor | None:
        """Return the mean over this rank's tokens of the step, and begin the next.

        None where there was no micro-batch.
        """
        total, tokens = self._sum, self._tokens
        self._sum, self._tokens = 0.0, 0
        if not isinstance(total, Tensor):
            return None
        return total / torch.as_tensor(tokens).clamp(min=1)


class ProbeBatches:
    """The probe's batches, from the place where a checkpoint has left off.

    Only the first process draws. The others hear of the place with each batch, so that every
    rank can save it.

    Args:
        loader: makes the dataloader.

    Attributes:
        place: where the dataloader stands, pickled; empty at its beginning.
    """

    def __init__(self, loader: Callable[[], BaseDataLoader]) -> None:
        self._make, self.place = loader, b""

    def __iter__(self) -> Iterator[tuple[_Batch, bytes]]:
        for place in (self.place, b""):  # to its end, and then from its beginning
            loader = self._make()
            if place:
                loader.load_state_dict(pickle.loads(place))
            for batch in loader:
                yield batch, pickle.dumps(loader.state_dict())


def make_probe(trainer: Trainer, batches: ProbeBatches) -> Callable[[], Tensor | float]:
    """Return a probe for `Explorer`: the Trainer's own loss. Calling it is collective.

    Args:
        trainer: has the model and the loss.
        batches: what is drawn from.
    """

    def loss(model: nn.Module, drawn: tuple[_Batch, bytes]) -> Tensor:
        (inputs, labels), batches.place = drawn
        # It counts tokens as if they had been trained on, and they are saved.
        seen = trainer.ntokens_seen
        try:
            inputs, labels, extra = trainer.post_dataloading_process(dict(inputs), labels)
        finally:
            trainer.ntokens_seen = seen
        with trainer.train_context():
            total, _ = trainer.loss_fn(model(inputs, **extra), labels)
        return total / _valid(labels).clamp(min=1)

    return probe(trainer.model_parts[0], batches, loss)


def _valid(labels: Any) -> Tensor:
    return (labels != IGNORE_INDEX).sum()

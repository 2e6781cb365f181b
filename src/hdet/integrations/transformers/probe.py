"""The probe: the Trainer's own loss, on examples that training does not see.

A run that is resumed has to draw what it would have drawn. So the examples depend on the step
alone, and on how many batches were drawn at it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...replica import probe

_DRAWS = 1_000  # more than are drawn at any one step


class _Batches:
    """An endless loader of examples drawn at random, the same at the same step."""

    def __init__(self, trainer: Any, dataset: Any) -> None:
        self._trainer, self._dataset = trainer, dataset
        self._collate = trainer._get_collator_with_removed_columns(trainer.data_collator)

    def __iter__(self) -> Iterator[Any]:
        step, drawn = -1, 0
        count = len(self._dataset)
        size = min(count, self._trainer.args.eval_batch_size)
        while True:
            now = self._trainer.state.global_step
            step, drawn = now, drawn + 1 if now == step else 0
            draw = torch.Generator().manual_seed(_DRAWS * step + drawn)
            rows = torch.randint(count, (size,), generator=draw).tolist()
            yield self._collate([self._dataset[row] for row in rows])


def make_probe(trainer: Any, dataset: Any) -> Callable[[], Tensor | float]:
    """Return a probe for `Explorer`. Calling it is collective.

    Args:
        trainer: a `transformers.Trainer`, which collates the examples and computes the loss.
        dataset: the examples, by index.
    """

    def loss(model: nn.Module, batch: Any) -> Tensor:
        # A copy: the Trainer takes the labels out where it smooths them.
        with trainer.compute_loss_context_manager():
            return trainer.compute_loss(model, dict(batch))

    return probe(trainer.model, _Batches(trainer, dataset), loss)

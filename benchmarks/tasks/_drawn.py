"""Tasks whose examples are drawn at random, from a fixed teacher.

The teacher is drawn from a key of its own and is the same for all seeds; a seed changes the
initial weights and the draws. The stream has no end, and the held-out examples are drawn
under a key that no batch has.
"""

from abc import abstractmethod
from pathlib import Path

from torch import Generator

from hdet.seeding import generator as keyed

from .base import Batch, Task, refuse_data

HELD_OUT, HELD_OUT_BATCH = 4096, 1024


class DrawnTask(Task):
    """What such tasks share; a task says what its teacher is, and how to draw from it.

    Held out are 4,096 examples, drawn like all others, in four batches.
    """

    def __init__(self, data: str | Path | None = None) -> None:
        """Draw the teacher and the held-out examples.

        Args:
            data: None, since all examples are drawn.

        Raises:
            ValueError: if `data` is given.
        """
        refuse_data(self.name, data, "the examples are drawn at random")
        self._make_teacher(keyed(0, self.name, "teacher"))
        columns = self._draw(HELD_OUT, keyed(0, self.name, "held out"))
        parts = (column.split(HELD_OUT_BATCH) for column in columns)
        self._held_out = list(zip(*parts, strict=True))

    @abstractmethod
    def _make_teacher(self, draw: Generator) -> None:
        """Draw what never changes."""

    @abstractmethod
    def _draw(self, count: int, draw: Generator) -> Batch:
        """Return `count` examples."""

    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return (inputs, targets) of `batch_size` examples.

        `world_size` does not matter: rank 1 draws the same in a run of 2 and of 8.
        """
        return self._draw(self.batch_size, keyed(seed, self.name, step, rank))

"""How a finite list of examples becomes a stream that never repeats.

The examples stand in one order. Step `t` takes the next `world_size * batch_size` of
them and deals them to the replicas like cards, one each in turn. So no example is seen
twice, by the same replica or by two, and neighbours in the order (one user's ratings,
say) are spread over all replicas, whose losses are then comparable.
"""

from functools import lru_cache

import torch
from torch import Tensor

from hdet.seeding import generator

from .base import Task


def steps_in(count: int, batch_size: int, world_size: int) -> int:
    """Return how many whole steps `count` examples last; a remainder is not used."""
    return count // (batch_size * world_size)


def places(count: int, batch_size: int, step: int, rank: int, world_size: int) -> Tensor:
    """Return the positions in the order that replica `rank` reads at `step`.

    Args:
        count: the number of examples in the order.
        batch_size: examples per replica and step.
        step: the optimizer step, from 0.
        rank: the replica, from 0 to `world_size - 1`.
        world_size: the number of replicas.

    Returns:
        `batch_size` different positions, as int64.

    Raises:
        IndexError: if the stream has no such step.
        ValueError: if `world_size` replicas have no such rank.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not among {world_size} replicas, from 0.")
    last = steps_in(count, batch_size, world_size)
    if not 0 <= step < last:
        raise IndexError(
            f"step {step} is outside the stream: its {count} examples last {last} "
            f"steps at {world_size} x {batch_size} examples a step, counted from 0."
        )
    deal = torch.arange(batch_size) * world_size + rank
    return step * batch_size * world_size + deal


@lru_cache(maxsize=4)
def shuffled(count: int, seed: int, name: str) -> Tensor:
    """Return the order in which the stream `name` visits `count` examples.

    The tensor is shared by all callers: read it, do not write to it.
    """
    return torch.randperm(count, generator=generator(seed, name, "order"))


class StreamTask(Task):
    """What tasks over a finite list of examples share.

    Attributes:
        count: how many examples the stream has.
    """

    count: int

    def places(self, seed: int, step: int, rank: int, world_size: int) -> Tensor:
        """Return which examples a replica reads at a step, in an order that `seed` draws."""
        at = places(self.count, self.batch_size, step, rank, world_size)
        return shuffled(self.count, seed, self.name)[at]

    def max_steps(self, world_size: int) -> int:
        """Return the number of steps in one pass."""
        return steps_in(self.count, self.batch_size, world_size)

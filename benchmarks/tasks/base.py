"""What the benchmarks ask of a task.

A task is a model, its parameter groups, a stream of training batches that never
repeats, and a fixed held-out set. The stream is addressed, not iterated: the batch of
a replica is a pure function of (seed, step, rank, world size). So a run resumes by
knowing its step, all configurations of one seed see the same data in the same order,
and no generator has to be saved.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Generator, Tensor, nn

Batch = tuple[Tensor, ...]


class Task(ABC):
    """One benchmark problem; see the module's head for the idea.

    Attributes:
        name: what the user types, in lower case.
        title: one line for tables and plots, with the unit of the loss.
        low_lr: a learning rate at which plain DDP trains well but slowly (paper: 1e-4).
        high_lr: nine times `low_lr`, as in the paper: at or beyond the edge of
            divergence for plain DDP.
        batch_size: examples per replica and step.
    """

    name: str
    title: str
    low_lr: float
    high_lr: float
    batch_size: int

    @abstractmethod
    def model(self, generator: Generator) -> nn.Module:
        """Return a new model whose initial weights come from `generator` alone."""

    @abstractmethod
    def groups(self, model: nn.Module) -> list[dict]:
        """Return the optimizer's parameter groups, each with `params` and a `name`."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of `batch`, a scalar tensor with a graph."""

    @abstractmethod
    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return the training batch of replica `rank` at optimizer step `step`."""

    @abstractmethod
    def held_out(self) -> Sequence[Batch]:
        """Return the held-out batches: fixed, and never part of the stream."""

    @abstractmethod
    def max_steps(self, world_size: int) -> int | None:
        """Return how many steps one pass over the stream lasts; None if endless."""

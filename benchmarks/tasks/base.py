"""What the benchmarks ask of a task.

A task is a model, its parameter groups, a stream of training batches that never
repeats, and a fixed held-out set. The stream is addressed, not iterated: the batch of
a replica is a pure function of (seed, step, rank, world size). So a run resumes by
knowing its step, all configurations of one seed see the same data in the same order,
and no generator has to be saved.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ._weights import grouped, initialised

Batch = tuple[Tensor, ...]


class Task(ABC):
    """One benchmark problem; see the module's head for the idea.

    Attributes:
        name: what the user types, in lower case.
        title: one line for tables and plots, with the unit of the loss.
        low_lr: a learning rate at which plain DDP trains well but slowly (paper: 1e-4).
        batch_size: examples per replica and step.
        prefixes: how the names of each parameter group's matrices begin; see `grouped`.
        embedding_std: the standard deviation of an embedding's first weights.
    """

    name: str
    title: str
    low_lr: float
    batch_size: int
    prefixes: Mapping[str, Sequence[str]]
    embedding_std: float = 0.02
    _held_out: Sequence[Batch]

    @property
    def high_lr(self) -> float:
        """Nine times `low_lr`, as in the paper: where plain DDP diverges, or almost."""
        return 9 * self.low_lr

    @abstractmethod
    def network(self) -> nn.Module:
        """Return a new network, whatever its weights are."""

    def model(self, generator: Generator) -> nn.Module:
        """Return a new model whose initial weights come from `generator` alone."""
        return initialised(self.network, generator, self.embedding_std)

    def groups(self, model: nn.Module) -> list[dict]:
        """Return the optimizer's parameter groups, each with `params` and a `name`."""
        return grouped(model, self.prefixes)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of `batch` with its graph: cross-entropy, in nats."""
        inputs, labels = batch
        return F.cross_entropy(model(inputs), labels)

    @abstractmethod
    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return the training batch of replica `rank` at optimizer step `step`."""

    def held_out(self) -> Sequence[Batch]:
        """Return the held-out batches: fixed, and never part of the stream."""
        return self._held_out

    def max_steps(self, world_size: int) -> int | None:
        """Return how many steps one pass over the stream lasts; None if endless."""
        return None


def refuse_data(task: str, data: str | Path | None, reason: str) -> None:
    """Raise a `ValueError` if a path was given to a task that takes none."""
    if data is not None:
        raise ValueError(
            f"`{task}` takes no data, but data={str(data)!r} was given: leave it out, {reason}."
        )

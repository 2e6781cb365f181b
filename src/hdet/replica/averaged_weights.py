"""An exponential moving average of the converged weights: where the signal is unbiased.

Two uses. The probe scores each replica at a point between the average and its own weights,

    theta_eval = average + reach * (theta_r - average),

so that the noise of the last steps weighs little and the replicas' differences remain: the
slope of the loss then says which rate makes *progress* rather than which damps noise (the
short-horizon bias). And it is the safe place to return to when the loss has exploded.

All replicas hold the same average, so it costs one copy of the parameters, and another for
the time of a probe.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from .optimizer_state import reset_state

REACH = 0.15  # how much of the replicas' own weights is in what the probe scores
MEMORY = 0.07  # share of the newest weights in the average, at each sync


def _local(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class AveragedWeights:
    """The average, and what is done with it. Local; it is equal on all replicas.

    Args:
        optimizer: whose parameters are averaged.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._average: list[Tensor] | None = None

    @property
    def exists(self) -> bool:
        """Whether anything has been averaged yet."""
        return self._average is not None

    def _weights(self) -> list[Tensor]:
        groups = self._optimizer.param_groups
        return [_local(p) for group in groups for p in group["params"]]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights, right after the replicas have converged."""
        weights = self._weights()
        if self._average is None:
            self._average = [w.clone() for w in weights]
        else:
            for average, weight in zip(self._average, weights, strict=True):
                average.lerp_(weight, MEMORY)

    @contextmanager
    def between(self) -> Iterator[None]:
        """Put the model between the average and its own weights for the block."""
        if self._average is None:
            yield
            return
        weights = self._weights()
        own = [w.clone() for w in weights]
        with torch.no_grad():
            for weight, average in zip(weights, self._average, strict=True):
                weight.copy_(torch.lerp(average, weight, REACH))
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, kept in zip(weights, own, strict=True):
                    weight.copy_(kept)

    @torch.no_grad()
    def restore(self) -> None:
        """Set the model to the average, and the optimizer's state to what it began with."""
        if self._average is not None:
            for weight, average in zip(self._weights(), self._average, strict=True):
                weight.copy_(average)
        reset_state(self._optimizer)

    def state_dict(self) -> list[Tensor] | None:
        """Return the average's tensors; a rank's own shards where the model is sharded."""
        return None if self._average is None else [a.clone() for a in self._average]

    @torch.no_grad()
    def load_state_dict(self, tensors: Sequence[Tensor] | None) -> None:
        """Go on from `tensors`; begin anew where they do not fit this rank's weights."""
        self._average = None
        weights = self._weights()
        shapes = [w.shape for w in weights]
        if tensors is not None and [t.shape for t in tensors] == shapes:
            pairs = zip(tensors, weights, strict=True)
            self._average = [t.to(w.device, w.dtype, copy=True) for t, w in pairs]

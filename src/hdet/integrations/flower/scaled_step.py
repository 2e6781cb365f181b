"""Strategies that scale the step of the wrapped strategy: w + alpha (wrapped - w).

Whatever the wrapped strategy makes of the replies, momentum, Adam or a plain mean, its step is
scaled by a rate alpha that comes from Delta, the raw weighted mean of the clients' updates.
Delta and the scaling are of the trainable entries; buffers, such as the running statistics of
batch normalisation, are taken as aggregated. With alpha 1 the result is the wrapped strategy's
own, bit for bit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvgM, Strategy
from torch import Tensor

from ...federated.vectors import blocks
from .records import Trainable, log, metrics_of, model_of, tensor
from .wrapper import Aggregated, Wrapper, chain


@dataclass(frozen=True)
class MeanUpdate:
    """Delta, the weighted mean of the clients' updates; their squared norms and weights."""

    delta: Tensor
    squared_norms: list[float]
    weights: list[float]


class ScaledStep(Wrapper):
    """Scales the step of the wrapped strategy by a rate that a subclass computes."""

    def __init__(self, strategy: Strategy, trainable: Trainable = None) -> None:
        super().__init__(strategy)
        self._trainable = trainable
        self._names: list[str] = []

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._names = self._model.trainable(self._trainable, type(self).__name__)
        for strategy in chain(self.strategy):
            if isinstance(strategy, FedAvgM):
                # It takes its own last result for the current model, which is wrong if alpha
                # is not 1. Without one, it takes the model of this round.
                strategy.current_arrays = None
        return super()._configure(round_, arrays, config, grid)

    def _aggregate(self, round_: int, good: list[Message], errors: list[Message]) -> Aggregated:
        # Measured first, since some strategies overwrite the replies' arrays.
        mean = self._mean(good) if good else None
        arrays, metrics = self._wrapped(round_, good, errors)
        if mean is None or arrays is None:
            log.warning("%s: round %d brought no new model, and changed nothing",
                        type(self).__name__, round_)  # fmt: skip
            return arrays, metrics
        alpha, measured = self._rate(mean)
        metrics = MetricRecord() if metrics is None else metrics
        metrics.update(measured)
        return self._scaled(arrays, alpha), metrics

    def _mean(self, replies: list[Message]) -> MeanUpdate:
        key = self._weight_key()
        weights = [float(metrics_of(reply)[key]) for reply in replies]
        shares = [weight / sum(weights) for weight in weights]
        models = [model_of(reply) for reply in replies]
        squared_norms, parts = [0.0] * len(models), []
        # As precise as the clients are; FedAdam's own models are float64.
        precision = np.result_type(*(models[0][name].dtype for name in self._names))
        for name in self._names:
            old, new = tensor(self._arrays[name]), [tensor(model[name]) for model in models]
            part = torch.from_numpy(np.empty(old.numel(), precision))
            for block in blocks(old.numel()):
                start = old.view(-1)[block].double()
                mean = torch.zeros_like(start)
                for i, entry in enumerate(new):
                    update = entry.view(-1)[block].double() - start
                    squared_norms[i] += float(update @ update)
                    mean += update * shares[i]
                part[block] = mean
            parts.append(part)
        return MeanUpdate(torch.cat(parts), squared_norms, weights)

    def _scaled(self, wrapped: ArrayRecord, alpha: float) -> ArrayRecord:
        """Return w + alpha (wrapped - w) in the trainable entries; the others as they are."""
        if alpha == 1.0:
            return wrapped
        arrays = dict(wrapped.items())
        for name in self._names:
            arrays[name] = between(self._arrays[name], wrapped[name], alpha)
        return ArrayRecord(arrays)

    def _rate(self, mean: MeanUpdate) -> tuple[float, dict[str, Any]]:
        """Return alpha and this round's metrics, and move on to the next round."""
        raise NotImplementedError


def between(old: Array, new: Array, alpha: float) -> Array:
    """Return old + alpha (new - old) in the type of `new`, in float64 block by block."""
    w, made = tensor(old).view(-1), tensor(new)
    entries = made.view(-1)
    for block in blocks(len(entries)):
        start = w[block].double()
        entries[block] = (start + alpha * (entries[block].double() - start)).to(made.dtype)
    return Array(made.numpy())

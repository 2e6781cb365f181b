"""Strategies that scale the step of the strategy within: w + alpha (inner - w).

The idea: whatever the strategy within makes of the replies, momentum, Adam or a plain mean,
its step is scaled by a rate alpha that comes from Delta, the raw weighted mean of the
clients' updates. Delta and the scaling are of the trainable entries; buffers, such as the
running statistics of batch normalisation, are taken as aggregated. With alpha 1 the result is
the strategy within's own, bit for bit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvgM, Strategy
from torch import Tensor

from ...federated.vectors import inner
from .records import Trainable, flat, log, metrics_of, model_of, tensor
from .wrapper import Wrapper, chain


@dataclass(frozen=True)
class MeanUpdate:
    """Delta, the raw weighted mean of the clients' updates, and what it is the mean of."""

    delta: Tensor
    squared_norms: list[float]
    weights: list[float]


class ScaledStep(Wrapper):
    """Scales the step of the strategy within; what the rates below share.

    Args:
        strategy: any Flower strategy.
        trainable: the entries that count and are scaled; see `FedHyper`.
    """

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
                # It takes its own last result for the current model, which ours is not when
                # alpha is not 1. Without one, it takes the model of this round.
                strategy.current_arrays = None
        return super()._configure(round_, arrays, config, grid)

    def _aggregate(
        self, round_: int, good: list[Message], rest: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        # Measured first, since some strategies use the replies' arrays up.
        mean = self._mean(good) if good else None
        name = type(self).__name__
        arrays, metrics = self._within(round_, good, rest)
        if mean is None or arrays is None:
            log.warning("%s: round %d brought no new model, and changed nothing", name, round_)
            return arrays, metrics
        alpha, measured = self._rate(mean)
        metrics = MetricRecord() if metrics is None else metrics
        metrics.update(measured)
        return self._scaled(arrays, alpha), metrics

    def _mean(self, replies: list[Message]) -> MeanUpdate:
        key = self._weight_key()
        weights = [float(metrics_of(reply)[key]) for reply in replies]
        old = flat(self._arrays, self._names).double()
        delta, squared_norms, dtype = torch.zeros_like(old), [], old.dtype
        for reply, weight in zip(replies, weights, strict=True):
            new = flat(model_of(reply), self._names)
            update, dtype = new.double() - old, new.dtype
            squared_norms.append(float(inner(update, update)))
            delta += update * (weight / sum(weights))
        # As precise as the clients are; FedAdam's own models are float64.
        return MeanUpdate(delta.to(dtype), squared_norms, weights)

    def _scaled(self, inner: ArrayRecord, alpha: float) -> ArrayRecord:
        """Return w + alpha (inner - w) in the trainable entries; the others are inner's."""
        if alpha == 1.0:
            return inner
        arrays = dict(inner.items())
        for name in self._names:
            old, new = tensor(self._arrays[name]), tensor(inner[name])
            step = new.double() - old.double()
            arrays[name] = Array((old.double() + alpha * step).to(new.dtype).numpy())
        return ArrayRecord(arrays)

    def _rate(self, mean: MeanUpdate) -> tuple[float, dict[str, Any]]:
        """Return alpha and this round's metrics, and move on to the next round."""
        raise NotImplementedError

"""The paired probe: every replica scores the same held-out batch.

On batches of their own the replicas' losses differ by the batches, many times more than by
their rates; on a common one the batch cancels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .replicas import Replicas
from .state import ExplorerState

Probe = Callable[[ExplorerState, Any], jax.Array]


class CommonProbe:
    """Scores the replicas; the k-th call takes batch k, starting over at the end.

    Args:
        replicas: who they are.
        probe: probe(state, batch) -> loss of one replica; None for none.
        batches: the held-out batches, without the replicas' axis.
        mix: share of a replica's own weights in those that are scored at a sync, the rest
            being the averaged weights: the noise of the last steps then weighs little.

    Attributes:
        calls: so far.
    """

    def __init__(
        self, replicas: Replicas, probe: Probe | None, batches: Sequence[Any], mix: float
    ) -> None:
        self._replicas = replicas
        self._batches = batches
        self.calls = 0
        self.exists = probe is not None
        if probe is None:
            return

        def between(average: Any, batch: Any, state: ExplorerState) -> jax.Array:
            mixed = jax.tree.map(
                lambda a, own: (a + mix * (own.astype(a.dtype) - a)).astype(own.dtype),
                average,
                state.params,
            )
            return probe(state._replace(params=mixed), batch)

        self._plain = replicas.map(lambda batch, state: probe(state, batch), common=1)
        self._between = replicas.map(between, common=2)

    def at_sync(self, state: ExplorerState, average: Any) -> list[float]:
        """Return each replica's loss between the averaged weights and its own.

        Args:
            state: of all replicas.
            average: the averaged weights; None while there are none.
        """
        if average is None:
            return self._numbers(self._plain(self._next(), state))
        return self._numbers(self._between(average, self._next(), state))

    def at_trial(self, state: ExplorerState, count: int) -> list[float]:
        """Return each replica's mean loss on the next `count` batches."""
        rows = [self._plain(self._next(), state) for _ in range(count)]
        return [
            math.fsum(column) / count for column in zip(*map(self._numbers, rows), strict=True)
        ]

    def _next(self) -> Any:
        batch = self._batches[self.calls % len(self._batches)]
        self.calls += 1
        return self._replicas.common(batch)

    def _numbers(self, losses: jax.Array) -> list[float]:
        if losses.shape != (self._replicas.size,):
            raise ValueError(
                f"`Explorer(probe=...)` must return one number, and returned an array of shape "
                f"{losses.shape[1:]}: give its mean."
            )
        return jnp.asarray(losses, float).tolist()

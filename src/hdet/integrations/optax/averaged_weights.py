"""An exponential moving average of the weights after each sync, one for all replicas.

The probe scores points near it, and all replicas go back to it after a loss spike. Weights in
half precision are averaged in float32. See `hdet.replica.explorer.averaged_weights`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ...replica.explorer.config import SearchConfig
from .replicas import Replicas, is_float


class AveragedWeights:
    """The average, without the replicas' axis.

    Args:
        replicas: who they are.
        config: the constants.

    Attributes:
        params: the average, or what is kept in its place; None before there is either.
        provisional: whether it is only to go back to, until the first are averaged.
        extra: what went with the weights that were taken in last.
        refused: how often in a row weights were too far away.
    """

    def __init__(self, replicas: Replicas, config: SearchConfig) -> None:
        self._config = config
        self.params: Any = None
        self.extra: Any = None
        self.provisional = False
        self.refused = 0
        share = config.averaging_weight
        self._first = replicas.whole(lambda new: jax.tree.map(_wide, new))
        self._lerp = replicas.whole(
            lambda old, new: jax.tree.map(lambda a, b: a + share * (_wide(b) - a), old, new)
        )
        self._distance = replicas.whole(_distance)

    def keep(self, params: Any, extra: Any) -> None:
        """Keep weights to go back to until the first are averaged."""
        self.params, self.extra, self.provisional = self._first(params), extra, True

    def update(self, params: Any, extra: Any) -> None:
        """Take in the weights, unless they are far away out of all proportion."""
        if self.params is None or self.provisional:
            self.params, self.provisional = self._first(params), False
        elif self._near(params):
            self.params = self._lerp(self.params, params)
        else:
            return
        self.extra = extra

    @property
    def scored(self) -> Any:
        """The average that the probe scores points near; None before the first sync."""
        return None if self.provisional else self.params

    def _near(self, params: Any) -> bool:
        gap, size = (math.sqrt(float(x)) for x in self._distance(self.params, params))
        near = gap <= self._config.max_weight_move * size or (size == 0 and math.isfinite(gap))
        self.refused = 0 if near else self.refused + 1
        # After some refusals they stay where they are: so it is no accident.
        return near or (self.refused > self._config.max_refused_weights and math.isfinite(gap))


def _wide(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) if is_float(leaf) else leaf


def _distance(old: Any, new: Any) -> tuple[jax.Array, jax.Array]:
    """Return the squared distance of two trees, and the squared norm of the first."""
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    rows = [(jnp.square(_wide(b) - a).sum(), jnp.square(a).sum()) for a, b in pairs]
    gaps, sizes = zip(*rows, strict=True)
    return jnp.stack(gaps).sum(), jnp.stack(sizes).sum()

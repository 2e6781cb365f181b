"""The schedule as the host sees it: plain numbers, known before the device gets there."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MANY = 4096  # steps that are computed at once


class Rates:
    """The learning rate of each optimizer step, as the user gave it.

    Args:
        learning_rate: a number, or a schedule that optax would take.
        total_steps: of the run, if it is a schedule.

    Attributes:
        peak: the largest rate of the run.
    """

    def __init__(
        self, learning_rate: float | Callable[[Any], Any], total_steps: int | None
    ) -> None:
        self._given = learning_rate
        self._known: list[float] = []
        self.peak = max(self.known(t) for t in range(total_steps or 1))
        if not self.peak > 0:
            raise ValueError(
                f"`Explorer(learning_rate=...)` is a schedule whose largest rate in "
                f"{total_steps} steps is {self.peak:g}: it must be above 0."
            )

    def at(self, step: jax.Array) -> jax.Array:
        """Return the rate of a step inside a compiled function."""
        return jnp.asarray(self._given(step) if callable(self._given) else self._given)

    def known(self, step: int) -> float:
        """Return the rate of a step on the host."""
        if not callable(self._given):
            return float(self._given)
        while step >= len(self._known):
            steps = jnp.arange(len(self._known), len(self._known) + _MANY)
            rates = jnp.broadcast_to(jax.vmap(self.at)(steps), steps.shape)
            self._known += np.asarray(rates, np.float64).tolist()
        return self._known[step]

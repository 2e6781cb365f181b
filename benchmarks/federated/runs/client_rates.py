"""The rates of all clients of a round, step after step: the rules of one client, in a batch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hdet.federated.client_rate import next_rate
from hdet.federated.delta_sgd import next_step
from hdet.federated.rounds import Order
from hdet.federated.vectors import inner


class HyperRates:
    """`ClientLocalRate` for each client, or the order's rate for all.

    Args:
        order: what the clients were sent.
        steps: K, the local steps of the round.
        rule: arguments of `ClientLocalRate`, by name; None keeps the order's rate.
        count: m, how many clients.
    """

    def __init__(
        self, order: Order, steps: int, rule: Mapping[str, Any] | None, count: int
    ) -> None:
        self._rule, self._order, self._steps = rule, order, steps
        self._beta = torch.full((count,), order.rate, dtype=torch.float64)
        self._previous: Tensor | None = None
        if rule is not None:
            given: dict[str, Any] = {"gamma": 10.0, "growth": 1.5, "beta_max": None} | {**rule}
            self._growth, highest = given["growth"], given["beta_max"]
            self._low = order.rate / given["gamma"]
            self._high = order.rate * given["gamma"]
            if highest is not None:
                self._high = min(self._high, highest)

    def next(self, gradient: Tensor) -> Tensor:
        """Return this step's rates, [m, 1] as `gradient`."""
        if self._rule is not None:
            if self._previous is not None:
                pull: Tensor | float = 0.0
                if self._order.previous_update is not None:
                    pull = -inner(gradient, self._order.previous_update) / self._steps
                product = inner(gradient, self._previous) + pull
                self._beta = next_rate(
                    self._beta, product, self._low, self._high, self._growth
                )
            self._previous = gradient.clone()
        return self._beta[:, None].to(gradient)


class DeltaRates:
    """`DeltaSGD` for each client.

    Args:
        rate: eta_0.
        rule: gamma, delta and theta of `DeltaSGD`, by name.
        count: m, how many clients.
    """

    def __init__(self, rate: float, rule: Mapping[str, Any], count: int) -> None:
        given: dict[str, Any] = {"gamma": 2.0, "delta": 0.1, "theta": 1.0} | {**rule}
        self._gamma, self._delta = given["gamma"], given["delta"]
        self._eta = torch.full((count,), rate, dtype=torch.float64)
        self._theta = torch.full((count,), given["theta"], dtype=torch.float64)
        self._before: Tensor | None = None

    def follow(
        self, weights: Tensor, gradient: Tensor, slope: Callable[[Tensor, Tensor], object]
    ) -> None:
        """Take in the curvature of this step's batch between the last weights and these.

        Args:
            weights: [m, n].
            gradient: there, of this step's batch, [m, n].
            slope: writes the same batch's gradient at other weights into its second argument.
        """
        if self._before is not None:
            then = torch.empty_like(gradient)
            slope(self._before, then)
            self._eta, self._theta = next_step(
                self._eta,
                self._theta,
                weights - self._before,
                gradient - then,
                self._gamma,
                self._delta,
            )
        self._before = weights.clone()

    def next(self, gradient: Tensor) -> Tensor:
        """Return this step's rates, [m, 1] as `gradient`."""
        return self._eta[:, None].to(gradient)

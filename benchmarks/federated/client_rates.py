"""The rates of all clients of a round, step after step: the rules of one client, in a batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from hdet.federated.client_rate import next_rate
from hdet.federated.delta_sgd import next_step
from hdet.federated.rounds import Order
from hdet.federated.vectors import inner


class HyperRates:
    """`ClientLocalRate` for each client.

    Args:
        order: what the clients were sent.
        steps: K, the local steps of the round.
        count: m, how many clients.
        gamma: as of `ClientLocalRate`.
        growth: likewise.
    """

    def __init__(
        self, order: Order, steps: int, count: int, gamma: float = 10.0, growth: float = 1.5
    ) -> None:
        self._order, self._steps, self._growth = order, steps, growth
        self._low, self._high = order.rate / gamma, order.rate * gamma
        self._beta = torch.full((count,), order.rate, dtype=torch.float64)
        self._previous: Tensor | None = None

    def next(self, gradient: Tensor) -> Tensor:
        """Return this step's rates, [m, 1] as `gradient`."""
        if self._previous is not None:
            pull: Tensor | float = 0.0
            if self._order.previous_update is not None:
                pull = -inner(gradient, self._order.previous_update) / self._steps
            product = inner(gradient, self._previous) + pull
            self._beta = next_rate(self._beta, product, self._low, self._high, self._growth)
        self._previous = gradient.clone()
        return self._beta[:, None].to(gradient)


class DeltaRates:
    """`DeltaSGD` for each client.

    Args:
        rate: eta_0.
        count: m, how many clients.
        gamma: as of `DeltaSGD`.
        delta: likewise.
        theta: likewise.
    """

    def __init__(
        self,
        rate: float,
        count: int,
        gamma: float = 2.0,
        delta: float = 0.1,
        theta: float = 1.0,
    ) -> None:
        self._gamma, self._delta = gamma, delta
        self._eta = torch.full((count,), rate, dtype=torch.float64)
        self._theta = torch.full((count,), theta, dtype=torch.float64)
        self._before: Tensor | None = None

    def follow(
        self, weights: Tensor, gradient: Tensor, loss_at: Callable[[Tensor, Tensor], object]
    ) -> None:
        """Take in the curvature of this step's batch between the last weights and these.

        Args:
            weights: [m, n].
            gradient: there, of this step's batch, [m, n].
            loss_at: writes the same batch's gradient at other weights into its second argument.
        """
        if self._before is not None:
            then = torch.empty_like(gradient)
            loss_at(self._before, then)
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

"""FedHyper-CL: a local learning rate that moves at every local step.

    beta^k = clip(beta^{k-1} + <g^k, g^{k-1}> + (1/K) <g^k, Delta^{t-1}>)            (20)

Each client starts every round at beta^0 (as in the authors' code, so that clients keep no
state). The last term pulls clients that drift away from the last global update back.
Source and symbols: `hdet.federated.hypergradient`.

Taken literally, (20) runs away: where gradients agree it adds numbers of the order of one to
rates of the order of 0.01, reaches its upper bound after one step, and ten times beta^0 is more
than training bears if beta^0 is near the best rate. Two parameters limit it: `growth`, the
largest factor of one step, up *and* down, and `beta_max`, an absolute bound beside the relative
one. With a limit on growth alone, as in the authors' code, one negative product sends the rate
to its lower bound, from which it takes dozens of steps to come back: clients with many classes,
whose gradients agree least, then hardly train, and the model ends below FedAvg's
(docs/results/federated.md has the numbers).
"""

from typing import Any

import torch
from torch import Tensor

from ..errors import require_number, require_whole
from .hypergradient import Hypergradient
from .rates import GAMMA_REMEDY, RATE_REMEDY
from .vectors import flat, inner, require_finite, require_length


def next_rate(beta: Tensor, product: Tensor, low: float, high: float, growth: float) -> Tensor:
    """Return beta^k of equation (20), for one client or a batch of clients; pure.

    Args:
        beta: beta^{k-1}, [...] in float64.
        product: <g^k, g^{k-1}> + (1/K) <g^k, Delta^{t-1}>, with Delta gradient-like, [...].
        low: lower bound of beta.
        high: upper bound of beta.
        growth: the largest factor by which beta may rise or fall; inf is no limit.
    """
    moved = beta + product
    limited = torch.minimum(torch.maximum(moved, beta / growth), beta * growth)
    return limited.clamp(low, high)


class ClientLocalRate:
    """FedHyper-CL on one client in one round: make a new one each round.

    Clients keep no state between rounds. The rule reads gradients, whatever the optimizer makes
    of them; inner products are taken in float64.

    Args:
        beta: beta^0 > 0, the rate of the first step; the message's learning rate.
        steps: K, the local steps of this round, at least 1.
        gamma: beta stays in [beta^0/gamma, gamma beta^0]; 1.0 holds it at beta^0.
        previous_update: last round's mean update, new minus old, flat and as long as the
            gradients (the sign is turned inside); None in round one, and for plain (19).
        growth: the largest factor by which one step may raise or lower beta, above 1;
            `math.inf` is (20) as printed.
        beta_max: an absolute upper bound beside the relative one; None is no bound.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        beta: float,
        steps: int,
        gamma: float = 10.0,
        previous_update: Any = None,
        *,
        growth: float = 1.5,
        beta_max: float | None = None,
    ) -> None:
        call = "ClientLocalRate"
        require_number(call, "beta", beta, RATE_REMEDY, above=0)
        require_number(call, "gamma", gamma, GAMMA_REMEDY, low=1)
        require_whole(call, "steps", steps, "give the number of local steps of this round", 1)
        require_number(call, "growth", growth, "math.inf is no limit", above=1, finite=False)
        if beta_max is not None:
            remedy = "lower beta, or leave beta_max out"
            require_number(call, "beta_max", beta_max, remedy, low=beta, finite=False)
        self._beta = torch.tensor(float(beta), dtype=torch.float64)
        self._steps, self._growth = steps, growth
        self._low = beta / gamma
        self._high = beta * gamma if beta_max is None else min(beta * gamma, beta_max)
        self._hypergradient = Hypergradient(f"{call}.update", "gradient")
        self._update: Tensor | None = None
        if previous_update is not None:
            self._update = flat(previous_update, call, "previous_update").clone()

    @property
    def beta(self) -> float:
        """The rate of the last step, beta^0 before the first."""
        return float(self._beta)

    def update(self, gradient: Any) -> float:
        """Return the rate of the step that is about to be made with `gradient`. Local.

        Args:
            gradient: g^k, flat, trainable parameters only, in the order of
                `previous_update`: [n] tensor or array. A copy is kept for the next step.

        Raises:
            ValueError: if `gradient` is not finite, or not as long as the last one or as
                `previous_update`; the state is then as before.
        """
        call, pull = "ClientLocalRate.update", 0.0
        current, first = flat(gradient, call, "gradient"), self._hypergradient.previous is None
        if self._update is not None:
            require_length(call, "gradient", current, len(self._update))
            # (1/K) <g, Delta>, where Delta = -update is gradient-like.
            pull = -float(inner(current, self._update.to(current))) / self._steps
            require_finite(call, "gradient", pull)
        product = self._hypergradient.update(current) + pull
        if not first:
            step = torch.tensor(product, dtype=torch.float64)
            self._beta = next_rate(self._beta, step, self._low, self._high, self._growth)
        return float(self._beta)

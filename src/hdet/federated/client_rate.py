"""FedHyper-CL: a local learning rate that moves at every local step.

    beta^k = clip(beta^{k-1} + <g^k, g^{k-1}> + (1/K) <g^k, Delta^{t-1}>)            (20)

Each client starts every round at beta^0 (the authors' code does, and clients then keep no
state). The last term pulls clients that drift away from the last global update back.
Source and symbols: `hdet.federated.rates`.

Taken literally, (20) runs away: where gradients agree it adds numbers of the order of one
to rates of the order of 0.01 and is at its upper bound after one step, and a bound of ten
times beta^0 is above what training bears as soon as beta^0 is near the best rate. Two caps
hold it, and both are parameters: in one step the rate changes by at most a factor, up *and*
down, and an absolute bound stands above the relative one. With a cap on growth alone, as in
the authors' code, one negative product sends the rate to its lower bound and it takes dozens
of steps to come back: clients with many classes, whose gradients agree least, then hardly
train, and the model ends below FedAvg's (docs/federated.md has the numbers).
"""

from typing import Any

import torch

from ..errors import require
from .checks import require_finite, require_gamma, require_rate, require_same_length
from .vectors import flat, inner


def next_rate(
    beta: torch.Tensor,
    gradient: torch.Tensor,
    previous_gradient: torch.Tensor,
    global_pull: torch.Tensor | float,
    low: torch.Tensor | float,
    high: torch.Tensor | float,
    growth: float,
) -> torch.Tensor:
    """Equation (20) for one client or a batch of clients; pure.

    Args:
        beta: beta^{k-1}, [...] in float64.
        gradient: g^k, [..., n].
        previous_gradient: g^{k-1}, [..., n].
        global_pull: (1/K) <g^k, Delta^{t-1}> with Delta gradient-like, [...].
        low: lower bound of beta.
        high: upper bound of beta.
        growth: the most that beta may be multiplied or divided by in one step; inf is no
            cap.

    Returns:
        beta^k, [...] in float64.
    """
    moved = beta + inner(gradient, previous_gradient) + global_pull
    capped = torch.minimum(torch.maximum(moved, beta / growth), beta * growth)
    low, high = (
        torch.as_tensor(bound, dtype=beta.dtype, device=beta.device) for bound in (low, high)
    )
    return torch.clamp(capped, low, high)


class ClientLocalRate:
    """FedHyper-CL on one client in one round: make a new one each round.

    Args:
        beta: beta^0 > 0, the rate of the first step; the message's learning rate.
        steps: K, the local steps of this round, at least 1.
        gamma: beta stays in [beta^0/gamma, gamma beta^0]; 1.0 holds it at beta^0.
        previous_update: last round's mean update, new minus old, flat and as long as the
            gradients (the sign is turned inside); None in round one, and for plain (19).
        growth: the most that one step may multiply or divide beta by, above 1; `math.inf` is
            (20) as printed.
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
        require_rate(call, beta)
        require_gamma(call, gamma)
        require(
            steps >= 1,
            call,
            "steps",
            steps,
            "must be at least 1",
            "give the number of local steps of this round",
        )
        require(growth > 1, call, "growth", growth, "must be above 1", "math.inf lifts the cap")
        require(
            beta_max is None or beta_max >= beta,
            call,
            "beta_max",
            beta_max,
            f"must be at least beta={beta}",
            "lower beta, or leave beta_max out",
        )
        self._beta = torch.tensor(float(beta), dtype=torch.float64)
        self._steps, self._growth = steps, growth
        self._low = beta / gamma
        self._high = beta * gamma if beta_max is None else min(beta * gamma, beta_max)
        self._previous: torch.Tensor | None = None
        self._update = (
            None
            if previous_update is None
            else flat(previous_update, call, "previous_update").clone()
        )

    @property
    def beta(self) -> float:
        """The rate of the last step, beta^0 before the first."""
        return float(self._beta)

    def update(self, gradient: Any) -> float:
        """Return the rate of the step that is about to be made with `gradient`. Local.

        Args:
            gradient: g^k, flat, trainable parameters only, in the order of
                `previous_update`: [n] tensor or array. Kept for the next step.

        Raises:
            ValueError: if `gradient` is not finite, or not as long as the last one or as
                `previous_update`; the state is then as before.
        """
        call = "ClientLocalRate.update"
        current = flat(gradient, call, "gradient")
        if self._update is not None:
            require_same_length(current, self._update, call, "gradient")
        beta = self._beta
        if self._previous is not None:
            require_same_length(current, self._previous, call, "gradient")
            beta = next_rate(
                self._beta,
                current,
                self._previous,
                self._global_pull(current),
                self._low,
                self._high,
                self._growth,
            )
        require_finite(float(beta), call, "gradient")
        self._beta, self._previous = beta, current.clone()
        return float(beta)

    def _global_pull(self, gradient: torch.Tensor) -> torch.Tensor | float:
        """(1/K) <g, Delta>, where Delta = -update is gradient-like."""
        if self._update is None:
            return 0.0
        return -inner(gradient, self._update.to(gradient)) / self._steps

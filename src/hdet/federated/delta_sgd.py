"""Delta-SGD: each client's rate from the curvature along its own steps.

    eta_k   = min(gamma |x_k - x_{k-1}| / (2 |g(x_k) - g(x_{k-1})|),
                  sqrt(1 + delta theta_{k-1}) eta_{k-1})
    theta_k = eta_k / eta_{k-1}

The first term is a step of gamma/2 over the local smoothness, the second limits how fast the
rate may rise where the loss is flat; it may fall at once. Both gradients are of one mini-batch,
that of step k, as in the authors' code: gradients of different batches differ by their noise,
which is not curvature. So a step takes a second gradient, at the weights of the step before.

It is a baseline for FedHyper-CL: both move a client's rate at each of its steps, start every
round anew, and leave nothing on the client. The first step of a round is made at eta_0, as in
Algorithm 1 (the authors' code makes it at sqrt(1 + delta) eta_0), and the code's `eps`, 1e-8,
is left out.

Source: Kim, Toghani, Uribe, Kyrillidis, "Adaptive Federated Learning with Auto-Tuned Clients",
ICLR 2024, arXiv:2306.11201, Algorithm 1, and its authors' code; after Malitsky, Mishchenko,
"Adaptive Gradient Descent without Descent", ICML 2020, arXiv:1910.09529.
"""

from typing import Any

import torch
from torch import Tensor

from ..errors import require_number
from .rates import RATE_REMEDY
from .vectors import flat, inner, require_finite, require_length


def next_step(
    eta: Tensor,
    theta: Tensor,
    weight_change: Tensor,
    gradient_change: Tensor,
    gamma: float,
    delta: float,
) -> tuple[Tensor, Tensor]:
    """Return eta_k and theta_k of one client or a batch of clients; pure.

    Args:
        eta: eta_{k-1}, [...] in float64.
        theta: theta_{k-1}, likewise.
        weight_change: x_k - x_{k-1}, [..., n].
        gradient_change: g(x_k) - g(x_{k-1}), of one mini-batch, [..., n].
        gamma: length of a step, in halves of one over the local smoothness.
        delta: how fast the rate may rise.

    Returns:
        eta_k and theta_k. Where no weight or no gradient changed, the curvature is unknown and
        the rate rises as far as it may.
    """
    risen = (1 + delta * theta).sqrt() * eta
    moved = inner(weight_change, weight_change).sqrt()
    smooth = gamma * moved / (2 * inner(gradient_change, gradient_change).sqrt())
    # False for 0 and for 0 / 0.
    new = torch.where(smooth > 0, torch.minimum(smooth, risen), risen)
    return new, new / eta


class DeltaSGD:
    """Delta-SGD on one client in one round: make a new one each round.

    Give it to `LocalTraining` as its `client_rate`, and the loss on the step's batch to its
    `step` as a function; or call `update` before every step but the first.

    Args:
        beta: eta_0 > 0, the rate of the first step; the message's learning rate. The authors
            take 0.2 for all tasks.
        gamma: above 0; the authors' 2 is a step of one over the local smoothness.
        delta: at least 0; with the authors' 0.1 the rate rises by at most 5 % a step.
        theta: theta_0 > 0; the authors' 1.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, beta: float, *, gamma: float = 2.0, delta: float = 0.1, theta: float = 1.0
    ) -> None:
        call = "DeltaSGD"
        require_number(call, "beta", beta, RATE_REMEDY, above=0)
        require_number(call, "gamma", gamma, "try 2", above=0)
        require_number(call, "theta", theta, "try 1", above=0)
        require_number(call, "delta", delta, "0.1 is usual", low=0)
        self._gamma, self._delta = gamma, delta
        self._eta = torch.tensor(float(beta), dtype=torch.float64)
        self._theta = torch.tensor(float(theta), dtype=torch.float64)

    @property
    def beta(self) -> float:
        """The rate of the last step, eta_0 before the first."""
        return float(self._eta)

    def update(self, weight_change: Any, gradient_change: Any) -> float:
        """Return the rate of the step that is about to be made; not for the first. Local.

        Args:
            weight_change: x_k - x_{k-1}: these weights minus those of the step before, flat,
                trainable parameters only: [n] tensor or array.
            gradient_change: the gradient at these weights minus the gradient at those, of this
                step's mini-batch: [n].

        Raises:
            ValueError: if they are not finite, or not of one length; the state is then as
                before.
        """
        call = "DeltaSGD.update"
        x = flat(weight_change, call, "weight_change")
        g = flat(gradient_change, call, "gradient_change")
        require_length(call, "gradient_change", g, len(x))
        require_finite(call, "weight_change", float(inner(x, x)))
        require_finite(call, "gradient_change", float(inner(g, g)))
        eta, theta = self._eta.to(x.device), self._theta.to(x.device)
        eta, theta = next_step(eta, theta, x, g.to(x.device), self._gamma, self._delta)
        require_finite(call, "gradient_change", float(eta))
        self._eta, self._theta = eta, theta
        return float(eta)

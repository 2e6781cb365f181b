"""How much less noise the shared gradient has than a replica's own: the gain of sharing it.

With g_i, the gradients of N replicas at equal weights,

    gain = mean_i |g_i|^2 / |mean_i g_i|^2

is 1 where each batch says the same, and about N where a gradient is nothing but the noise of
its batch. This is the gain ratio of AdaScale SGD (Johnson et al., arXiv 2007.05105), and N
times the gradient diversity (Yin et al., arXiv 1706.05699): the factor by which the batch of
all replicas bears a larger learning rate than that of one.

Replicas that train alone (`apart`) have equal weights at their first step only. A hook copies
the gradients there; `read` averages the copies.
"""

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim import Optimizer

from .averaging import Averaging
from .groups import Replicas
from .step_hook import before_update


class GradientGain:
    """Looks at the gradients of an optimizer's next step, each replica at its own.

    Args:
        optimizer: whose step.
        replicas: that train alone, from equal weights.
    """

    def __init__(self, optimizer: Optimizer, replicas: Replicas) -> None:
        self._replicas = replicas
        self._parameters = [
            p for group in optimizer.param_groups for p in group["params"] if p.requires_grad
        ]
        self._own: list[Tensor] = []
        self._hook = before_update(optimizer, self._look)

    @torch.no_grad()
    def _look(self) -> None:
        if not self._own:
            # What has no gradient on one replica may have one on another.
            self._own = [
                torch.zeros_like(p) if p.grad is None else torch.empty_like(p).copy_(p.grad)
                for p in self._parameters
            ]

    def read(self) -> tuple[float, float]:
        """Return mean_i |g_i|^2 and |mean_i g_i|^2, and look no longer. Collective.

        Returns:
            The same on every rank; NaN where a replica has taken no step, or has a gradient
            that is not finite.
        """
        gradients, self._own = self._own, []
        self._hook.remove()
        own = self._mean_square(gradients)
        if not math.isfinite(own):
            return math.nan, math.nan
        averaging = Averaging(gradients, self._replicas)
        averaging.health()
        averaging.run()
        return own, self._mean_square(gradients)

    def _mean_square(self, gradients: list[Tensor]) -> float:
        """Return the squared norm, the mean over the replicas; NaN without gradients."""
        device = self._parameters[0].device
        # Half precision has no digits to spare for a norm.
        norms = [
            vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients
        ]
        squares = [norm.to(device, torch.float64).square() for norm in norms]
        total = torch.stack(squares).sum() if squares else torch.tensor(math.nan, device=device)
        rows = self._replicas.gather(total.double().reshape(1))
        return math.fsum(row[0] for row in rows) / len(rows)

"""What a lower-level solver returns, and when it stops.

The stopping rule is a posteriori and the same for every solver: by strong convexity
|grad h(x)| <= eps mu implies |x - x(theta)| <= eps (paper, section 2). A tolerance is never
assumed to be met: `accuracy` is what was reached, whatever was asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear import Ending
from ..oracle import Oracle, norms


@dataclass(frozen=True)
class Solution:
    """What a solver returns: x, and the accuracy that it reached."""

    x: Tensor  # [m, n]
    accuracy: Tensor  # |grad h(x)| / mu of each sample, which bounds |x - x(theta)|; [m]
    ending: Ending
    iterations: int

    @property
    def met(self) -> bool:
        """Whether every sample has the accuracy that was asked for."""
        return self.ending is Ending.MET


# (oracle, theta [p], x [m, n] to start from, eps, mu, largest number of iterations)
Solver = Callable[[Oracle, Tensor, Tensor, float, float, int], Solution]


class Progress:
    """Whether to go on; sees the gradient at every iterate.

    Rounding may keep a solver from its tolerance. It has reached its floor once `patience`
    iterations in a row have not lowered any sample's smallest gradient.

    Args:
        tolerance: eps mu, on the norm of a sample's gradient.
        limit: the largest number of iterations.
        patience: iterations without a smaller gradient that end the solve.
    """

    def __init__(self, tolerance: float, limit: int, patience: int) -> None:
        self._tolerance, self._limit, self._patience = tolerance, limit, patience
        self._best: Tensor | None = None
        self._since = 0
        self.iterations = 0
        self.open = torch.tensor([])

    def ending(self, gradient: Tensor) -> Ending | None:
        """Return why to stop, or None; sets `open`, the samples that are not done, [m]."""
        sizes = norms(gradient)
        self.open = sizes > self._tolerance
        if not bool(self.open.any()):
            return Ending.MET
        if self._best is None:
            self._best = sizes
        elif bool((sizes < self._best)[self.open].any()):
            self._best, self._since = torch.minimum(self._best, sizes), 0
        else:
            self._since += 1
            if self._since >= self._patience:
                return Ending.FLOOR
        if self.iterations >= self._limit:
            return Ending.ITERATIONS
        self.iterations += 1
        return None

"""What a lower-level solver returns, and when it stops.

Stopping is a posteriori, and no solver's own business: by strong convexity
|grad h(x)| <= eps mu makes |x - x(theta)| <= eps (paper, section 2). A tolerance that is not
met is said, never assumed: `accuracy` is what was reached, whatever was asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..endings import Ending
from ..oracle import Oracle, norms


@dataclass(frozen=True)
class Solution:
    """What a solver returns.

    Attributes:
        x: [m, n].
        accuracy: |grad h(x)| / mu of each sample, which bounds |x - x(theta)|; [m].
        ending: why the solver stopped.
        iterations: how many it made.
    """

    x: Tensor
    accuracy: Tensor
    ending: Ending
    iterations: int

    @property
    def met(self) -> bool:
        """Whether every sample has the accuracy that was asked for."""
        return self.ending is Ending.MET


Solver = Callable[[Oracle, Tensor, Tensor, float, float, int], Solution]


class Progress:
    """Whether to go on; sees the gradient at every iterate.

    Rounding ends what a tolerance too small for the type would not: once `patience`
    iterations in a row have not lowered any sample's best gradient, it is at its floor.

    Args:
        tolerance: eps mu, on the length of a sample's gradient.
        limit: most iterations.
        patience: iterations without a better gradient that end the solve.
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

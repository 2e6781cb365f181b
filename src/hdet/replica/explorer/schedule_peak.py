"""How far a schedule rises above the rate that its scheduler starts from.

What the user wrote as `lr` is most schedules' highest rate, but not all: a function may return
the rate itself, times an `lr` of 1, or have its peak anywhere, as Noam's. A search is around
the highest rate, so such functions are asked for their first steps.
"""

import copy
from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

# Optimizer steps that are asked for, and those where the schedule still rises at the last.
_STEPS, _MORE_STEPS = 2_000, 100_000


def peak_factors(scheduler: Any, groups: int) -> list[float]:
    """Return for each parameter group the schedule's highest rate over its base rate. Local.

    1 for any other scheduler: most of torch's never leave the base rate upwards.

    Args:
        scheduler: a torch scheduler, a callable of the step, or None.
        groups: how many parameter groups there are.
    """
    if type(scheduler) is LambdaLR:
        return [_largest(function) for function in scheduler.lr_lambdas]
    if callable(scheduler):
        return [_largest(scheduler)] * groups
    return [1.0] * groups


def _largest(function: Callable[[int], Any]) -> float:
    """Return the largest factor; 1 where it is not positive, or rises on and on."""
    for steps in (_STEPS, _MORE_STEPS):
        factors = _first(function, steps)
        largest = max(factors, default=0.0)
        if 0 < largest < float("inf") and factors.index(largest) < len(factors) - 1:
            return largest
    return 1.0


def _first(function: Callable[[int], Any], steps: int) -> list[float]:
    """Return the factors of the first steps, as far as the function knows them."""
    factors = []
    try:
        function = copy.deepcopy(function)  # an object may count its calls
        for step in range(steps):
            factors.append(float(function(step)))
    except Exception:  # whatever the user's own function raises beyond its last step
        pass
    return factors

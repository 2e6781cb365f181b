"""Checks of arguments that several selectors take."""

import math
from collections.abc import Mapping

from ...errors import require


def require_weights(call: str, weights: Mapping[str, float]) -> None:
    """Raise a `ValueError` unless every weight is finite and at least 0.

    Args:
        call: the public name that was called.
        weights: by argument name.
    """
    for argument, weight in weights.items():
        fine = 0 <= weight < math.inf
        require(fine, call, argument, weight, "must be finite and at least 0", "0 turns it off")


def require_within(
    call: str, argument: str, value: float, low: float, high: float, remedy: str
) -> None:
    """Raise a `ValueError` unless `low` <= `value` <= `high`.

    Args:
        call: the public name that was called.
        argument: the argument's name.
        value: what was given.
        low: smallest value allowed.
        high: largest value allowed.
        remedy: what to write instead.
    """
    rule = f"must lie in [{low:g}, {high:g}]"
    require(low <= value <= high, call, argument, value, rule, remedy)

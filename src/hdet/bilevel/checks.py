"""Checks of arguments that several functions take."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, TypeGuard

from ..errors import require


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, infinite ones and NaN included, and no boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_positive(call: str, name: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is a number that is finite and above 0."""
    good = is_number(value) and 0 < value < math.inf
    require(good, call, name, value, "must be finite and above 0", "try 0.01")


def require_between(
    call: str, name: str, value: Any, inside: Callable[[Any], bool], rule: str, remedy: str
) -> None:
    """Raise a `ValueError` unless `value` is a number for which `inside` holds."""
    require(is_number(value) and inside(value), call, name, value, rule, remedy)


def require_whole(call: str, name: str, value: Any, low: int, remedy: str) -> None:
    """Raise a `ValueError` unless `value` is a whole number of at least `low`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    good = whole and int(value) >= low
    require(good, call, name, value, f"must be at least {low}, and a whole number", remedy)


def require_callback(call: str, value: object) -> None:
    """Raise a `ValueError` unless `value` is None or can be called."""
    good = value is None or callable(value)
    rule, remedy = "must be None or a function", "give one of (step, state)"
    require(good, call, "callback", value, rule, remedy)

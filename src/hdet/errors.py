"""Errors and argument checks that every part of the library shares.

A message names the argument, the rule, the value that broke it and the remedy. Where several
processes run it also says whose message it is: `[rank 2 of 8]`. This module does not import
torch, so that the parts which are pure mathematics can use it.
"""

import math
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypeGuard


def where() -> str:
    """Return `[rank 2 of 8] ` inside a process group, else an empty string. Local."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return f"[rank {dist.get_rank()} of {dist.get_world_size()}] "
    return ""


def require(
    holds: object, call: str, argument: str, value: object, rule: str, remedy: str
) -> None:
    """Raise a `ValueError` unless `holds`.

    Args:
        holds: whether the rule is kept.
        call: the public name that was called, such as `OneCycleAutoLR`.
        argument: the argument's name.
        value: the value that was given.
        rule: what the argument must do, as in "must be at least 1".
        remedy: what to write instead.

    Raises:
        ValueError: if `holds` is false.
    """
    if not holds:
        raise ValueError(f"{where()}`{call}({argument}={short(value)})` {rule}: {remedy}.")


def require_number(
    call: str, argument: str, value: object, remedy: str, **limits: float
) -> None:
    """Raise a `ValueError` unless `value` is a real number within `limits`.

    Args:
        call: the public name that was called.
        argument: the argument's name.
        value: the value that was given.
        remedy: what to write instead.
        **limits: of `Limits`, such as `above=0` for a learning rate.
    """
    allowed = Limits(**limits)
    require(value in allowed, call, argument, value, str(allowed), remedy)


def require_whole(call: str, argument: str, value: object, remedy: str, low: int = 0) -> None:
    """Raise a `ValueError` unless `value` is a whole number of at least `low`."""
    holds = is_whole(value) and value >= low
    require(holds, call, argument, value, f"must be a whole number of at least {low}", remedy)


def require_choice(
    call: str, argument: str, value: object, choices: Sequence[str], remedy: str
) -> None:
    """Raise a `ValueError` unless `value` is one of `choices`, at least two texts."""
    quoted = [f'"{choice}"' for choice in choices]
    rule = f"must be {', '.join(quoted[:-1])} or {quoted[-1]}"
    require(isinstance(value, str) and value in choices, call, argument, value, rule, remedy)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a real number, infinite or NaN included, and no boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is an integer and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class Limits:
    """The limits of a number; `value in limits` checks one, `str(limits)` puts them in words.

    Attributes:
        low: the smallest value allowed.
        high: the largest value allowed.
        above: a value that must be exceeded.
        below: a value that must not be reached.
        finite: whether infinities are refused. NaN always is.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    finite: float | bool = True

    def __contains__(self, value: object) -> bool:
        try:
            number = float(value) if is_number(value) else math.nan
        except OverflowError:  # an integer that is too large for a float
            return False
        return (
            self.low <= number <= self.high
            and (number > self.above or self.above == -math.inf)
            and (number < self.below or self.below == math.inf)
            and not (self.finite and math.isinf(number))
        )

    def __str__(self) -> str:
        low, high = max(self.low, self.above), min(self.high, self.below)
        open_left, open_right = self.above == low, self.below == high
        if low > -math.inf and high < math.inf:
            left, right = "[("[open_left], "])"[open_right]
            return f"must lie in {left}{low:g}, {high:g}{right}"
        if low == -math.inf and high == math.inf:
            return f"must be a {'finite ' * bool(self.finite)}number"
        limit = f"{'above' if open_left else 'at least'} {low:g}"
        if low == -math.inf:
            limit = f"{'below' if open_right else 'at most'} {high:g}"
        return f"must be {'finite and ' * bool(self.finite)}{limit}"


def short(value: object, most: int = 100) -> str:
    """Return a value as part of one line: no whole data set, model or object.

    Args:
        value: what to show; arrays and tensors with more than one number by their shape.
        most: the largest number of characters.
    """
    try:
        text = " ".join(_SHORT.repr(value).split())
    except Exception:
        # An object whose `repr` fails must not hide what is wrong with it.
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


class _Short(reprlib.Repr):
    """`reprlib`, which looks at no more of a value than it shows, with arrays by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 8
        self.maxstring = self.maxother = self.maxlong = 200

    def repr_instance(self, x: object, level: int) -> str:
        """Show any other object; the method of that name in `reprlib`."""
        shape = getattr(x, "shape", None)
        if isinstance(shape, tuple) and len(shape) > 0:
            kind, dtype = type(x).__name__, getattr(x, "dtype", "no dtype")
            return f"<{kind} of shape {tuple(shape)}, {dtype}>"
        return super().repr_instance(x, level)


_SHORT = _Short()

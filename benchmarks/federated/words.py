"""How numbers, intervals and comparisons read, the same in all tables and sentences."""

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

from .paired import Interval


class _Place(Protocol):
    @property
    def local_rate(self) -> float: ...
    @property
    def global_rate(self) -> float: ...


def mean(one: Interval, digits: int = 2) -> str:
    """Return a mean and its standard error, as in `85.12 ± 0.31`."""
    if math.isnan(one.mean):
        return "–"
    error = "" if math.isnan(one.error) else f" ± {one.error:.{digits}f}"
    return f"{one.mean:.{digits}f}{error}"


def signed(one: Interval, digits: int = 2) -> str:
    """Return a difference and its 95 % interval, as in `+1.20 (+0.31 to +2.09)`."""
    if math.isnan(one.mean):
        return "–"
    text = f"{one.mean:+.{digits}f}"
    if math.isnan(one.low):
        return f"{text} (one seed)"
    return f"{text} ({one.low:+.{digits}f} to {one.high:+.{digits}f})"


def place(cell: _Place) -> str:
    """Return a cell of the grid, as in `beta 0.01, alpha 1.5`."""
    return f"beta {cell.local_rate:g}, alpha {cell.global_rate:g}"


def ratio(value: float) -> str:
    """Return how many times, as in `1.50`."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def times(one: Interval) -> str:
    """Return a ratio and its 95 % interval, as in `1.50 (1.31 to 1.69)`."""
    if math.isnan(one.mean) or math.isnan(one.low):
        return ratio(one.mean)
    return f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})"


def share(value: float) -> str:
    """Return a share in percent."""
    return "–" if math.isnan(value) else f"{value:.0%}"


def between(value: float, low: float, high: float) -> str:
    """Return where a value lies to a published range."""
    if math.isnan(value):
        return "not measured"
    where = "below" if value < low else "above" if value > high else "within"
    return f"{where} the paper's range"


def listed(names: Iterable[str]) -> str:
    """Return names as a sentence has them: `a, b and c`."""
    every = list(names)
    return " and ".join([", ".join(every[:-1]), every[-1]] if len(every) > 1 else every)


def standings(signs: Mapping[str, int], above: str, below: str) -> str:
    """Return where one stands to others: `above A and B; not told apart from C`.

    Args:
        signs: 1 where it is clearly better, -1 where clearly worse, else 0; by the others'
            names.
        above: the words for 1.
        below: the words for -1.
    """
    words = ((1, above), (-1, below), (0, "not told apart from"))
    return "; ".join(
        f"{text} {listed(name for name, its in signs.items() if its == sign)}"
        for sign, text in words
        if sign in signs.values()
    )

"""How losses, ratios and intervals read, the same in all tables and sentences."""

import math

from ..federated.paired import Interval


def loss(one: Interval) -> str:
    """Return a mean loss and its standard error to four digits, as in `1.234 ± 0.031`."""
    if 0 < one.mean < 1e-3:
        error = "" if math.isnan(one.error) else f" ± {one.error:.1e}"
        return f"{one.mean:.3e}{error}"
    return with_error(one, _digits(one.mean))


def with_error(one: Interval, digits: int) -> str:
    """Return a mean and its standard error, as in `85.1 ± 0.3`."""
    if math.isnan(one.mean):
        return "–"
    error = "" if math.isnan(one.error) else f" ± {one.error:.{digits}f}"
    return f"{one.mean:.{digits}f}{error}"


def ratio(logs: Interval) -> str:
    """Return a geometric mean and its 95 % interval, as in `1.50 (1.31 to 1.69)`."""
    if math.isnan(logs.mean):
        return "–"
    if math.isnan(logs.low):
        return times(logs.mean)
    return f"{times(logs.mean)} ({times(logs.low)} to {times(logs.high)})"


def ratio_with_error(logs: Interval) -> str:
    """Return a geometric mean and its standard error, as in `1.50 ± 0.08`."""
    if math.isnan(logs.mean):
        return "–"
    if math.isnan(logs.error):
        return times(logs.mean)
    # Of a small error in the logarithm, this is the error of the ratio.
    return f"{times(logs.mean)} ± {times(logs.error, logs.mean)}"


def times(log: float, scale: float | None = None) -> str:
    """Return exp(log); with `scale`, an error of exp(scale), to the digits of that."""
    level = math.exp(min(log if scale is None else scale, 700.0))
    value = level if scale is None else level * log
    if level >= 1e5 or value >= 1e5:
        return f"{value:.1e}"
    if value < 0.0995 and scale is None:
        return f"{value:.2g}"
    return f"{value:.{3 if level < 9.995 else 1 if level < 999.5 else 0}f}"


def percent(one: Interval) -> str:
    """Return a share's mean and standard error in percent, as in `0.52 ± 0.07 %`."""
    if math.isnan(one.mean):
        return "–"
    digits = 2 if one.mean < 0.995 else 0
    error = "" if math.isnan(one.error) else f" ± {100 * one.error:.{digits}f}"
    return f"{100 * one.mean:,.{digits}f}{error} %"


def power(start: float) -> str:
    """Return a start, as in `1e-3`."""
    exponent = math.log10(start)
    return f"1e{exponent:.0f}" if start < 1 and exponent == round(exponent) else f"{start:g}"


def count(value: float) -> str:
    """Return a mean count: whole where it is large or whole."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 9.95 or value == round(value) else f"{value:.1f}"


def _digits(value: float) -> int:
    """Return the decimals that show four digits, three at most where there are more."""
    if math.isnan(value) or value <= 0:
        return 4
    return min(5, max(1, 3 - math.floor(math.log10(value))))

"""How losses, ratios, spreads and counts read, the same in all tables and sentences."""

import math

from ..core.statistics import Estimate


def loss(one: Estimate) -> str:
    """Return a mean loss and its standard error to four digits, as in `1.234 ± 0.031`."""
    if 0 < one.mean < 1e-3:
        return f"{one:.3e}"
    known = one.mean > 0
    decimals = min(5, max(1, 3 - math.floor(math.log10(one.mean)))) if known else 4
    return f"{one:.{decimals}f}"


def ratio(logs: Estimate) -> str:
    """Return a geometric mean and its standard error, as in `1.50 ± 0.08`."""
    if math.isnan(logs.mean):
        return "–"
    value = _exp(logs.mean)
    # A small error of the logarithm times the ratio is the error of the ratio.
    return f"{Estimate(value, value * logs.error, logs.n):{_spec(value)}}"


def ratio_interval(logs: Estimate) -> str:
    """Return a geometric mean and its 95 % interval, as in `1.500 (1.310 to 1.690)`."""
    if math.isnan(logs.low):
        return times(logs.mean)
    return f"{times(logs.mean)} ({times(logs.low)} to {times(logs.high)})"


def times(log: float) -> str:
    """Return exp(log)."""
    return "–" if math.isnan(log) else f"{_exp(log):{_spec(_exp(log))}}"


def percent(one: Estimate) -> str:
    """Return a mean share and its standard error in percent, as in `0.52 ± 0.07 %`."""
    if math.isnan(one.mean):
        return "–"
    decimals = 2 if one.mean < 0.995 else 0
    return f"{Estimate(100 * one.mean, 100 * one.error, one.n):,.{decimals}f} %"


def power(start: float) -> str:
    """Return a first accuracy, as in `1e-3`."""
    exponent = math.log10(start)
    return f"1e{exponent:.0f}" if start < 1 and exponent == round(exponent) else f"{start:g}"


def count(value: float) -> str:
    """Return a mean count: whole where it is large or whole."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 9.95 or value == round(value) else f"{value:.1f}"


def _exp(log: float) -> float:
    return math.exp(min(log, 700.0))


def _spec(value: float) -> str:
    if value >= 1e5:
        return ".1e"
    if value < 0.0995:
        return ".2g"
    return f".{3 if value < 9.995 else 1 if value < 999.5 else 0}f"

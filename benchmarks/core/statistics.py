"""Means over seeds, paired differences and ratios, each with what it can tell.

Runs of a seed share the split, the first weights and the batches, so two methods are compared
seed by seed: most of what differs between seeds drops out. The mean d of n differences has the
interval d +- t(1 - q/2; n - 1) s / sqrt(n) with q = 0.05, and with m comparisons q = 0.05 / m
(Bonferroni), so that all m hold together with 95 %.

Source: Student, "The Probable Error of a Mean", Biometrika 1908.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

MISS = 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; everything is NaN where a value is not finite.

    `f"{estimate:.2f}"` gives the mean and its standard error, as in `85.12 ± 0.31`.
    """

    mean: float
    error: float  # its standard error; NaN with one value
    n: int  # how many values there are

    def half_width(self, comparisons: int = 1) -> float:
        """Return how far the 95 % interval of so many comparisons reaches to each side."""
        if self.n < 2:
            return math.nan
        return float(stats.t.ppf(1 - MISS / comparisons / 2, self.n - 1)) * self.error

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.mean - self.half_width()

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.mean + self.half_width()

    @property
    def sign(self) -> int:
        """1 if the interval is above zero, -1 if it is below, otherwise 0."""
        return (self.low > 0) - (self.high < 0)

    def __format__(self, spec: str) -> str:
        if math.isnan(self.mean):
            return "–"
        error = "" if math.isnan(self.error) else f" ± {self.error:{spec.lstrip('+')}}"
        return f"{self.mean:{spec}}{error}"

    def interval(self, spec: str) -> str:
        """Return the mean and its interval, as in `+1.20 (+0.31 to +2.09)`."""
        if math.isnan(self.mean):
            return "–"
        if math.isnan(self.low):
            return f"{self.mean:{spec}}"
        return f"{self.mean:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def estimate(values: Iterable[float]) -> Estimate:
    """Return the mean over seeds.

    Where a value is not finite, or the sum overflows, mean and error are NaN: a mean of the
    others would look better than what was seen.
    """
    found = list(values)
    if not found or not all(map(math.isfinite, found)):
        return Estimate(math.nan, math.nan, len(found))
    try:
        error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        return Estimate(fmean(found), error, len(found))
    except OverflowError:
        return Estimate(math.nan, math.nan, len(found))


def difference(those: Sequence[float], others: Sequence[float]) -> Estimate:
    """Return `those` minus `others`, seed by seed."""
    return estimate(a - b for a, b in zip(those, others, strict=True))

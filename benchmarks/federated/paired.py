"""Differences between runs of one seed, what they can tell, and rounds to a target.

Runs of a seed share the split, the first weights and the batches, so differences are taken
seed by seed: most of what differs between seeds drops out. Their mean d of n seeds has the
interval

    d +- t(1 - q/2; n - 1) s / sqrt(n),   q = 0.05,

and with m comparisons q = 0.05 / m (Bonferroni): then all m hold together with 95 %.

How much faster a run is: the target is what the plain run has over its last rounds, and the
ratio is the plain run's own first round at the target over the other's, so that more than 1
is faster. A run that never gets there has the ratio 0. A plain run that learned nothing sets
no target.

Source: Student, "The Probable Error of a Mean", Biometrika 1908, for the paired interval.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from scipy.special import stdtrit

from ..core.statistics import estimate
from .study import LAST

MISS = 0.05
# Percent; ten classes guessed give ten. Below, reaching a target says nothing.
LEARNED = 15.0
# Accuracies have two decimals, and the mean of ten equal ones must not be above them.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, mostly of differences, with its 95 % interval.

    Attributes:
        mean: of the values.
        error: its standard error; NaN with one seed.
        low: lower end; NaN with one seed.
        high: upper end; NaN with one seed.
        seeds: how many there are.
    """

    mean: float
    error: float
    low: float
    high: float
    seeds: int

    def lower(self, comparisons: int = 1) -> float:
        """Return the lower end where so many comparisons are to hold together."""
        return self.mean - quantile(self.seeds, comparisons) * self.error

    @property
    def sign(self) -> int:
        """1 if the interval is above zero, -1 if below, 0 if neither (or unknown)."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Speed:
    """Rounds to the plain runs' accuracy.

    Attributes:
        reached: median ratio of the runs that get there; NaN if none does.
        all: median ratio of all, those that never get there counted as 0; NaN if none.
        share: share of the runs that get there, 0 to 1; NaN if no target is set.
        targets: how many targets there are.
        runs: how many pairs of runs, those without a target too.
    """

    reached: float
    all: float
    share: float
    targets: int
    runs: int


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of finite values and what it can tell."""
    found = estimate(values)
    mean, error = found.mean, found.error
    half = quantile(len(values)) * error
    return Interval(mean, error, mean - half, mean + half, len(values))


def differences(those: Sequence[float], others: Sequence[float]) -> Interval:
    """Return `those` minus `others`, seed by seed."""
    return interval([a - b for a, b in zip(those, others, strict=True)])


def ratio(plain: Sequence[float], other: Sequence[float]) -> float | None:
    """Return how many times fewer rounds a run needs; see the module's head.

    Args:
        plain: accuracies of the plain run by round, in percent.
        other: those of the other run.

    Returns:
        The ratio; 0 if never, None if the plain run sets no target.
    """
    target = fmean(plain[-LAST:])
    if target < LEARNED:
        return None
    own, first = first_round(plain, target), first_round(other, target)
    return own / first if own and first else 0.0


def first_round(accuracies: Sequence[float], target: float) -> int | None:
    """Return the first round, from 1, that has the target; None if none has."""
    at = (i for i, value in enumerate(accuracies, 1) if value >= target - _ROUNDING)
    return next(at, None)


def speed(ratios: Iterable[float | None]) -> Speed:
    """Return the medians over many runs."""
    every = list(ratios)
    found = [one for one in every if one is not None]
    reached = [one for one in found if one > 0]
    return Speed(
        reached=median(reached) if reached else math.nan,
        all=median(found) if found else math.nan,
        share=len(reached) / len(found) if found else math.nan,
        targets=len(found),
        runs=len(every),
    )


def quantile(seeds: int, comparisons: int = 1) -> float:
    """Return how many standard errors an interval reaches to each side; NaN for one seed."""
    if seeds < 2:
        return math.nan
    return float(stdtrit(seeds - 1, 1 - MISS / comparisons / 2))

"""The level and the noise of the training loss: what is a loss spike, and what is noise?

A single number that somebody reports must decide nothing: a loss that leaps up is taken in by
a bounded share only. No absolute scale enters, and losses may have any sign.
"""

import math
from dataclasses import dataclass
from typing import Any

from ...state import Entries
from .config import DEFAULT, SearchConfig

LARGEST = 1e100  # a loss beyond it is as good as infinite, and its square would be
ROUNDING = 1e-6  # relative, of losses in float32


@dataclass
class LossTracker:
    """The smoothed training loss, its best, and the noise of one interval's mean.

    Attributes:
        config: the constants.
        count: syncs seen.
        start: the loss of the search, before the first interval; not finite for none.
        first: the first interval's loss, or that of the search if it is higher.
        previous: the last interval's.
        smoothed: exponential moving average.
        best: the lowest `smoothed` so far.
        noise: variance of an interval's loss, from differences of neighbours.
        weight: of `noise`'s mean so far, to correct its start.
    """

    config: SearchConfig = DEFAULT
    count: int = 0
    start: float = -math.inf
    first: float = 0.0
    previous: float = 0.0
    smoothed: float = 0.0
    best: float = math.inf
    noise: float = 0.0
    weight: float = 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of an interval's loss; infinite while unknown."""
        return math.sqrt(self.noise / self.weight) if self.weight else math.inf

    @property
    def reach(self) -> float:
        """How far an interval's loss gets by noise alone, as long as that is known from few.

        `noise_deviations` z of the normal distribution become the same quantile of Student's t
        with n degrees of freedom, by its expansion in 1 / n (Abramowitz and Stegun, 26.7.5):

            t = z (1 + (z^2 + 1) / 4n + (5 z^4 + 16 z^2 + 3) / 96n^2)

        Squared differences of neighbours are correlated, and k of them count as 2k / 3.
        """
        if not self.weight:
            return math.inf
        z, kept = self.config.noise_deviations, 1 - self.config.noise_weight
        # The mean's weights are kept^i; what they sum to is known, and so is how many they are.
        old = 1 - self.weight
        many = (1 - old) ** 2 * (1 + kept) / ((1 - old**2) * (1 - kept))
        n = 2 * many / 3
        t = z * (1 + (z**2 + 1) / (4 * n) + (5 * z**4 + 16 * z**2 + 3) / (96 * n**2))
        return t * self.deviation

    @property
    def improvement(self) -> float:
        """By how much the loss has fallen since the first interval."""
        return max(self.first - self.best, 0.0) if self.count else 0.0

    @property
    def settled(self) -> bool:
        """Whether enough losses were seen to know their noise."""
        return self.count >= self.config.settled_after

    def begin(self, loss: float) -> None:
        """Measure the improvement from the loss of the search."""
        self.start = loss if abs(loss) < LARGEST else -math.inf

    def update(self, loss: float) -> None:
        """Take in one interval's loss."""
        ceiling = self.ceiling
        self.count += 1
        if self.count == 1:
            self.first, self.smoothed = max(loss, self.start), loss
        else:
            square = (loss - self.previous) ** 2 / 2
            largest = self.config.jump_deviations**2 * self.deviation**2
            # A jump is no noise: taken as such, it would hide the jumps that follow.
            if square < largest if self.settled else loss <= ceiling:
                weight = self.config.noise_weight
                self.noise = (1 - weight) * self.noise + weight * square
                self.weight = (1 - weight) * self.weight + weight
            self.smoothed += self.config.loss_weight * (min(loss, ceiling) - self.smoothed)
        self.previous = loss
        self.best = min(self.best, self.smoothed)

    @property
    def ceiling(self) -> float:
        """The highest loss that is plausible after those seen so far."""
        if not self.count:
            return math.inf
        if self.settled:
            known = max(self.improvement, self.config.noise_deviations * self.deviation)
            return self.smoothed + self.config.implausible_factor * known
        return self.best + self._implausible_rise()

    def _implausible_rise(self) -> float:
        """Return a rise that is implausible while the noise is not known."""
        scale = max(abs(self.first), abs(self.best))
        return self.config.early_implausible_factor * scale if scale > 0 else math.inf

    @property
    def rising(self) -> bool:
        """Whether the smoothed loss stands above its best by more than noise."""
        # The smoothing leaves a third of the standard deviation.
        return self.settled and self.smoothed > self.best + self.deviation

    def spiked(self, loss: float, lowest: float, patience: float = 1.0) -> bool:
        """Return whether the loss of the interval, and of every replica, lost much again.

        `lowest` is as for `RateGuard.update`, `patience` how many times more than usual has
        to be lost.
        """
        if not self.count:
            return False
        lost = loss - self.best
        share = patience * self.config.spike_threshold * self.improvement
        if self.settled:
            rounding = ROUNDING * max(abs(loss), abs(self.best))
            allowed = max(share, patience * self.reach, rounding)
        else:
            allowed = self._implausible_rise()
        return lost > allowed and lowest - self.best > share

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {key: value for key, value in vars(self).items() if key != "config"}

    @classmethod
    def parsed(cls, entries: Entries, config: SearchConfig) -> "LossTracker":
        """Return the tracker that a state describes."""
        count = entries.integer("count")

        def loss(key: str) -> float:
            return entries.number(key, -LARGEST, LARGEST)

        return cls(
            config,
            count=count,
            start=_start(entries),
            first=loss("first"),
            previous=loss("previous"),
            smoothed=loss("smoothed"),
            # Before the first loss there is no best one.
            best=loss("best") if count else entries.number("best", math.inf, finite=False),
            noise=entries.number("noise", 0.0, 4 * LARGEST**2),
            weight=entries.number("weight", 0.0, 1.0),
        )


def _start(entries: Entries) -> float:
    known = entries.has("start")  # the older states have none
    return entries.number("start", -math.inf, LARGEST, finite=False) if known else -math.inf

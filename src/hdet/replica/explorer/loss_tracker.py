"""The level and the noise of the training loss, and what is out of all proportion to them.

The search asks two things of the losses: what the run has gained so far, and whether a jump
is more than noise. Neither may hang on a single number that somebody reports: of the
replicas' losses those far outside all that the others and the past make plausible are left
out, and a loss that leaps up is taken in by a bounded share.

No absolute scale enters, and losses may have any sign.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ...state import Entries

LARGEST = 1e100  # a loss beyond it is as good as infinite, and its square would be
NOISE = 4.0  # standard deviations that noise is taken to reach
_LOST = 0.25  # share of the gain whose loss is an explosion
_SETTLED = 5  # losses after which the noise is known
_FAR = 10.0  # times all that is known of the losses: nothing that happens by itself
_ABSURD = 1000.0  # times the loss itself, where nothing else is known yet
_ROUNDING = 1e-6  # relative, of losses in float32


@dataclass
class LossTracker:
    """The smoothed training loss, its best, and the noise of one interval's mean.

    Attributes:
        count: syncs seen.
        first: the first interval's loss.
        previous: the last interval's.
        smoothed: exponential mean with weight 0.2.
        best: the lowest `smoothed` so far.
        noise: variance of an interval's loss, from differences of neighbours.
        weight: of `noise`'s mean so far, to correct its start.
    """

    count: int = 0
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
    def gain(self) -> float:
        """What the run has gained since its first interval."""
        return max(self.first - self.best, 0.0) if self.count else 0.0

    @property
    def settled(self) -> bool:
        """Whether enough losses were seen to know their noise."""
        return self.count >= _SETTLED

    def update(self, loss: float) -> None:
        """Take in one interval's loss."""
        ceiling = self.ceiling
        self.count += 1
        if self.count == 1:
            self.first = self.smoothed = loss
        else:
            square = (loss - self.previous) ** 2 / 2
            # A jump is no noise: taken as such, it would hide the jumps that follow.
            if square < 36 * self.deviation**2 if self.settled else loss <= ceiling:
                self.noise = 0.9 * self.noise + 0.1 * square
                self.weight = 0.9 * self.weight + 0.1
            self.smoothed += 0.2 * (min(loss, ceiling) - self.smoothed)
        self.previous = loss
        self.best = min(self.best, self.smoothed)

    @property
    def ceiling(self) -> float:
        """The highest loss that is in proportion to those seen so far."""
        if not self.count:
            return math.inf
        if self.settled:
            return self.smoothed + _FAR * max(self.gain, NOISE * self.deviation)
        return self.best + self._absurd()

    def _absurd(self) -> float:
        """Return a rise that is out of all proportion while the noise is not known."""
        scale = max(abs(self.first), abs(self.best))
        return _ABSURD * scale if scale > 0 else math.inf

    @property
    def rising(self) -> bool:
        """Whether the smoothed loss stands above its best by more than noise."""
        # The smoothing leaves a third of the standard deviation.
        return self.settled and self.smoothed > self.best + self.deviation

    def exploded(self, loss: float, lowest: float, patience: float = 1.0) -> bool:
        """Return whether an interval's loss, and every replica's, lost much of the gain.

        Args:
            loss: mean training loss of the interval.
            lowest: as for `RateSearch.update`.
            patience: how many times more than usual has to be lost.
        """
        if not self.count:
            return False
        lost, gain = loss - self.best, patience * _LOST * self.gain
        if self.settled:
            noise = patience * NOISE * self.deviation
            rounding = _ROUNDING * max(abs(loss), abs(self.best))
            allowed = max(gain, noise, rounding)
        else:
            allowed = self._absurd()
        return lost > allowed and lowest - self.best > gain

    def outliers(self, losses: Sequence[float]) -> list[int]:
        """Return the replicas whose loss is out of all proportion.

        That is to the others' and to the losses so far: a replica at too high a rate may well
        stand far above the others, and by itself none is as far away as what is meant here,
        one batch whose loss was wrong or a number that stands for "none".

        Args:
            losses: of each replica; what is not finite is none of them.
        """
        live = [r for r, loss in enumerate(losses) if math.isfinite(loss)]
        finite = [losses[r] for r in live]
        if len(live) < 2:
            return []
        middle, spread = statistics.median(finite), 0.0
        if len(live) > 2:
            spread = statistics.median(abs(x - middle) for x in finite)
        else:
            past = self.smoothed if self.count else 0.0
            middle = min(finite, key=lambda loss: abs(loss - past))
        noise = NOISE * math.sqrt(len(live)) * self.deviation if self.weight else 0.0
        known = max(self.gain, noise)
        if self.settled:
            above = below = _FAR * max(known, spread, _ROUNDING * abs(middle))
        else:
            # Of two replicas alone it is hard to tell; and by itself none falls far.
            share = _FAR if len(live) > 2 else _ABSURD
            above = max(share * max(abs(middle), known), _FAR**2 * spread)
            below = max(share / 3 * abs(middle), known, _FAR * spread)
        return [r for r in live if self._is_far(losses[r], middle, below, above)]

    def _is_far(self, loss: float, middle: float, below: float, above: float) -> bool:
        """Return whether a loss is far from a middle, and from the losses so far."""
        if middle - below <= loss <= middle + above:
            return False
        return not (self.count and self.smoothed - below <= loss <= self.smoothed + above)

    @classmethod
    def parsed(cls, entries: Entries) -> "LossTracker":
        """Return the tracker that a state describes.

        Raises:
            ValueError: if it is damaged.
        """
        count = entries.integer("count")

        def loss(key: str) -> float:
            return entries.number(key, -LARGEST, LARGEST)

        return cls(
            count=count,
            first=loss("first"),
            previous=loss("previous"),
            smoothed=loss("smoothed"),
            # Before the first loss there is no best one.
            best=loss("best") if count else entries.number("best", math.inf, finite=False),
            noise=entries.number("noise", 0.0, 4 * LARGEST**2),
            weight=entries.number("weight", 0.0, 1.0),
        )


def range_of_noise(losses: Sequence[float], deviation: float) -> float:
    """Return how far apart losses of different batches may be by chance alone.

    Args:
        losses: finite, of each replica.
        deviation: of their mean, over time.
    """
    n = len(losses)
    single = math.sqrt(n) * deviation
    if n > 3:
        # What few intervals say of the noise is little; how the replicas differ says more,
        # and their median does not see the few that have fallen.
        middle = statistics.median(losses)
        single = max(single, 1.5 * statistics.median(abs(x - middle) for x in losses))
    # The range of n normal numbers grows as the root of their number's logarithm.
    return single * (NOISE + math.sqrt(8 * math.log(n)))

"""The search for the learning rate's scale: climb from below, stop at the edge, hold.

A rate that starts far too high destroys the model before anything can be measured, so the
search begins below the schedule, at `START` of it, and climbs. While replicas with larger
rates do better on the common probe batch, the rate rises, and never beyond what a replica
has tried. It is an LR range test inside the run, at the cost of the first syncs. It ends

- where the evidence has turned: smaller rates do better, clearly and for several syncs;
- at a cliff: some replicas' losses stand above the best one's by more than all that the run
  has gained so far. Those replicas are left out of the average (the others are points of the
  same line search, further back), and the rate returns to the best replica's.

From then on the rate is held: the schedule may lower it, not raise it. Small moves follow
the slope of the probe loss at *averaged weights*. The slope at the current weights asks for
ever smaller rates, since a smaller step damps the noise at once (short-horizon bias, Wu et
al., arXiv 1803.02021); averaging damps it already, and what is left is progress. The moves
fade as the schedule decays, where noise is what the decay is there to remove.

If the loss explodes all the same (more than a quarter of the gain is lost), the caller
restores the averaged weights, and the rate falls to a third.

Pure arithmetic on gathered numbers; equal on every rank. Sources: HDET (arXiv 2604.24708)
for replicas as points of a line search; the climb, cliffs and averaged weights are ours.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..state import Entries

START = 0.05  # share of the schedule at which the search begins
CLIMB_WIDTH = math.log(2)  # spread of the log rates while climbing; also the largest move
HOLD_GAIN = 0.1  # largest move of a log value at a sync while holding
EXPLOSION = math.log(3)  # the fall of the log rate when the loss has exploded
LARGEST = 1e100  # a loss beyond it is as good as infinite, and its square would be
_MEMORY = 0.6  # of the smoothed evidence
_TURNED = -0.3  # smoothed evidence at which the climb ends
_SEEN = 0.5  # smoothed evidence that shows the rates can be told apart at all
_DRIFT = 0.5  # climb where they cannot yet, and nothing speaks against it
_CLIFF = 4.0  # in units of the gain so far
_LOST = 0.25  # likewise
_NOISE = 4.0  # standard deviations that noise is taken to reach


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

    def update(self, loss: float) -> None:
        """Take in one interval's loss."""
        self.count += 1
        if self.count == 1:
            self.first = self.smoothed = loss
        else:
            square = (loss - self.previous) ** 2 / 2
            # A jump is no noise: taken as such, it would hide the jumps that follow.
            if self.count < 5 or square < 36 * self.deviation**2:
                self.noise = 0.9 * self.noise + 0.1 * square
                self.weight = 0.9 * self.weight + 0.1
            self.smoothed += 0.2 * (loss - self.smoothed)
        self.previous = loss
        self.best = min(self.best, self.smoothed)

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

    @property
    def rising(self) -> bool:
        """Whether the smoothed loss stands above its best by more than noise."""
        # The smoothing leaves a third of the standard deviation.
        return self.count > 4 and self.smoothed > self.best + self.deviation

    def exploded(self, loss: float, lowest: float) -> bool:
        """Return whether an interval's loss, and every replica's, lost much of the gain."""
        lost = loss - self.best
        return (
            self.count > 4
            and lost > max(_LOST * self.gain, _NOISE * self.deviation)
            and lowest - self.best > _LOST * self.gain
        )


@dataclass
class RateSearch:
    """What the search knows; the same on every rank.

    Attributes:
        climbing: whether it still searches; afterwards it holds.
        momentum: the smoothed evidence.
        seen: whether the evidence was ever clear.
        tracker: the losses.
        explosions: how often the run was rolled back.
        cliffs: how often replicas were left out.
    """

    climbing: bool
    momentum: float
    seen: bool
    tracker: LossTracker
    explosions: int = 0
    cliffs: int = 0

    @classmethod
    def begin(cls, search: bool) -> "RateSearch":
        """Return a search at its start, or one that holds from the beginning."""
        return cls(search, 0.0, False, LossTracker())

    def fallen(self, losses: Sequence[float], slope: float, paired: bool = True) -> list[int]:
        """Return the replicas beyond the cliff; they are to be left out of the average.

        Args:
            losses: of each replica on the probe batch, or of its interval.
            slope: of the losses over the rates; positive where larger rates are worse.
            paired: whether the losses are of one common batch. If not, each has noise of its
                own, and of many some are far out by chance.
        """
        finite = [loss for loss in losses if math.isfinite(loss)]
        if not finite or self.tracker.count < 2 or slope <= 0:
            return []
        gain, noise = self.tracker.gain, _NOISE * self.tracker.deviation
        if not self.climbing and gain <= noise:
            # Nothing gained, as where a trained model goes on: no height to fall from.
            return [r for r, loss in enumerate(losses) if not math.isfinite(loss)]
        if not paired:
            noise = _range_of_noise(finite, self.tracker.deviation)
        allowed = max(noise, _CLIFF * gain)
        lowest = min(finite)
        return [r for r, loss in enumerate(losses) if loss - lowest > allowed]

    def update(self, clear: float, loss: float, lowest: float, cliff: bool) -> "Move":
        """Take in one sync and say what becomes of the log rate.

        Args:
            clear: `evidence` that larger rates are better, -1 to 1.
            loss: the mean training loss of the interval.
            lowest: the lowest of the replicas' losses on one batch, or the median of those
                on their own.
            cliff: whether replicas were left out.

        Returns:
            The move.
        """
        loss = loss if abs(loss) < LARGEST else math.inf
        exploded = not math.isfinite(loss) or self.tracker.exploded(loss, lowest)
        self.momentum = _MEMORY * self.momentum + (1 - _MEMORY) * clear
        if math.isfinite(loss):
            self.tracker.update(loss)
        self.seen |= self.momentum > _SEEN
        turned = self.seen and (
            self.momentum <= _TURNED or (self.tracker.rising and self.momentum <= 0)
        )
        stopped = self.climbing and (turned or cliff or exploded)
        self.climbing &= not stopped
        step = 0.0
        if self.climbing:
            least = _DRIFT if not self.seen and self.momentum > _TURNED else 0.0
            step = CLIMB_WIDTH * max(self.momentum, least)
        if cliff or exploded:
            self.momentum = min(self.momentum, 0.0)
        self.cliffs += cliff
        if exploded:
            self.explosions += 1
            self.momentum = 0.0
            self.tracker.smoothed = min(self.tracker.smoothed, self.tracker.best)
            step = -EXPLOSION
        return Move(step, stopped, exploded)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {**vars(self), "tracker": dict(vars(self.tracker))}

    @classmethod
    def parsed(cls, entries: Entries) -> "RateSearch":
        """Return the search that a state describes.

        Raises:
            ValueError: if it is damaged.
        """
        return cls(
            climbing=entries.boolean("climbing"),
            momentum=entries.number("momentum", -1.0, 1.0),
            seen=entries.boolean("seen"),
            tracker=LossTracker.parsed(entries.entries("tracker")),
            explosions=entries.integer("explosions"),
            cliffs=entries.integer("cliffs"),
        )


def _range_of_noise(losses: Sequence[float], deviation: float) -> float:
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
    return single * (_NOISE + math.sqrt(8 * math.log(n)))


@dataclass(frozen=True)
class Move:
    """What a sync does to the rate's scale.

    Attributes:
        step: added to the log rate; while holding only a fall after an explosion.
        stopped: whether the climb has just ended.
        exploded: whether the averaged weights are to be restored.
    """

    step: float
    stopped: bool
    exploded: bool

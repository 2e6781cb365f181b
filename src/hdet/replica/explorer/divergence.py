"""Which replicas have diverged, and which losses are implausible.

A replica at too high a rate may stand far above the others: it has diverged, and is excluded
from the average. No replica by itself is so far away from the others, and from the losses so
far, as one whose batch was wrong, or who reports a number that stands for "none": such a loss
is implausible, and is not read at all.
"""

import math
import statistics
from collections.abc import Sequence

from .loss_tracker import ROUNDING, LossTracker


def diverged(
    tracker: LossTracker,
    losses: Sequence[float],
    slope: float,
    *,
    paired: bool,
) -> list[int]:
    """Return the replicas that are to be excluded from the average.

    Args:
        tracker: the losses so far.
        losses: of each replica on the probe batch, or of its interval.
        slope: of the losses over the rates; positive where larger rates are worse.
        paired: whether the losses are of one common batch. If not, each has noise of its
            own, and of many some are far out by chance.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite or tracker.count < 2 or slope <= 0:
        return []
    improvement = tracker.improvement
    noise = tracker.config.noise_deviations * tracker.deviation
    if improvement <= noise:
        # Nothing gained, as where a trained model goes on: nothing can be lost.
        return [r for r, loss in enumerate(losses) if not math.isfinite(loss)]
    if not paired:
        noise = _range_of_noise(finite, tracker)
    allowed = max(noise, tracker.config.divergence_threshold * improvement)
    lowest = min(finite)
    return [r for r, loss in enumerate(losses) if loss - lowest > allowed]


def implausible(tracker: LossTracker, losses: Sequence[float]) -> list[int]:
    """Return the replicas whose loss is out of all proportion to the others' and the past.

    Args:
        tracker: the losses so far.
        losses: of each replica; one that is not finite is none of those returned.
    """
    live = [r for r, loss in enumerate(losses) if math.isfinite(loss)]
    finite = [losses[r] for r in live]
    if len(live) < 2:
        return []
    config = tracker.config
    middle, spread = statistics.median(finite), 0.0
    if len(live) > 2:
        spread = statistics.median(abs(x - middle) for x in finite)
    else:
        past = tracker.smoothed if tracker.count else 0.0
        middle = min(finite, key=lambda loss: abs(loss - past))
    noise = 0.0
    if tracker.weight:
        noise = config.noise_deviations * math.sqrt(len(live)) * tracker.deviation
    known, far = max(tracker.improvement, noise), config.implausible_factor
    if tracker.settled:
        above = below = far * max(known, spread, ROUNDING * abs(middle))
    else:
        # Of two replicas alone it is hard to tell; and by itself none falls far.
        share = far if len(live) > 2 else config.early_implausible_factor
        above = max(share * max(abs(middle), known), far**2 * spread)
        below = max(share / 3 * abs(middle), known, far * spread)

    def is_far(loss: float) -> bool:
        if middle - below <= loss <= middle + above:
            return False
        past = tracker.smoothed
        return not (tracker.count and past - below <= loss <= past + above)

    return [r for r in live if is_far(losses[r])]


def _range_of_noise(losses: Sequence[float], tracker: LossTracker) -> float:
    """Return how far apart finite losses of different batches may be by chance alone."""
    n = len(losses)
    single = math.sqrt(n) * tracker.deviation
    if n > 3:
        # What few intervals say of the noise is little; how the replicas differ says more,
        # and their median does not see the few that have diverged.
        middle = statistics.median(losses)
        single = max(single, 1.5 * statistics.median(abs(x - middle) for x in losses))
    # The range of n normal numbers grows as the root of their number's logarithm.
    return single * (tracker.config.noise_deviations + math.sqrt(8 * math.log(n)))

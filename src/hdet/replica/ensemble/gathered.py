"""What the replicas have told each other at a sync: plain numbers, the same on every rank."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gathered:
    """What a sync has to decide on.

    Attributes:
        losses: L_r of every replica, the mean over the interval; NaN where it gave none, or
            is broken.
        probes: the probe's loss on every replica; NaN without a probe, or where it is broken.
        given: whether any replica was given a loss in the interval.
        broken: the replicas whose weights or optimizer state are not finite.
        masked: those, and the ones that gave losses that are not finite.
    """

    losses: list[float]
    probes: list[float]
    given: bool = True
    broken: list[int] = field(default_factory=list)
    masked: list[int] = field(default_factory=list)

    @property
    def all_broken(self) -> bool:
        """Whether no replica is left to average."""
        return len(self.broken) == len(self.losses)

    @property
    def any_finite(self) -> bool:
        """Whether any replica has a finite loss, on its own batches or on the probe's."""
        return any(map(math.isfinite, [*self.losses, *self.probes]))

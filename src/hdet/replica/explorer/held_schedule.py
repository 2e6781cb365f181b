"""The schedule that a learned factor multiplies, one for each parameter group.

While the rate's scale is searched, the factor is on the rate that the user wrote, s* (the
schedule's peak), whatever the schedule is just then. From the end of the search on it is on the
schedule itself, with all its rises and falls:

    s_held(t) = s* while searching, else s(t)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...state import LARGEST_RATE, Entries
from .dimensions import Dimension

# Of a rate in float32 that was scaled and divided again; far less than a schedule falls.
_ROUNDING = 1e-6


@dataclass
class HeldSchedule:
    """The schedule of one parameter group.

    Attributes:
        now: s(t).
        highest: the largest s so far.
        peak: s* while searching; None otherwise.
        written: s* of a search, also after it; 0 where there was none.
    """

    now: float
    highest: float
    peak: float | None = None
    written: float = 0.0

    def advance(self, value: float) -> None:
        """Go on to the next step's value."""
        self.now = value
        self.highest = max(self.highest, value)

    @property
    def value(self) -> float:
        """s_held(t)."""
        return self.now if self.peak is None else self.peak

    @property
    def share(self) -> float:
        """s(t) as a share of its maximum: 1 until the rate decays."""
        return self.now / self.highest if self.highest > 0 else 1.0

    @property
    def falls(self) -> bool:
        """Whether s(t) is below its maximum by more than rounding."""
        return self.share < 1 - _ROUNDING

    @property
    def above_written(self) -> bool:
        """Whether s has been above the s* of a search by more than rounding."""
        return self.written > 0 and self.highest > self.written * (1 + _ROUNDING)

    def risen(self, least: float) -> bool:
        """Return whether s has ever come to a share of s*."""
        return self.highest >= least * self.written

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return dict(vars(self))

    @classmethod
    def parsed(cls, entries: Entries) -> "HeldSchedule":
        """Return the schedule that `state_dict` described.

        Raises:
            ValueError: if an entry is missing or no rate.
        """
        highest = entries.number("highest", 0, LARGEST_RATE)
        now = entries.number("now", 0, highest)
        peak = None
        if entries.has("peak"):
            peak = entries.optional("peak", entries.number, low=0, high=LARGEST_RATE)
        written = 0.0
        if entries.has("written"):
            written = entries.number("written", 0, LARGEST_RATE)
        return cls(now, highest, peak, written)


def shares_of(dimensions: Sequence[Dimension], groups: Sequence[HeldSchedule]) -> list[float]:
    """Return for each dimension its schedule's share of the maximum; 1 where it has none."""
    return [1.0 if d.group is None else groups[d.group].share for d in dimensions]


def decaying(dimensions: Sequence[Dimension], groups: Sequence[HeldSchedule]) -> bool:
    """Return whether the schedules of all rates have fallen below their maxima."""
    return all(groups[d.group].falls for d in dimensions if d.group is not None)


def risen_shares(
    dimensions: Sequence[Dimension], groups: Sequence[HeldSchedule], least: float
) -> list[float]:
    """Return the same, but 0 where a schedule has not come to `least` of s*, the written."""
    pairs = zip(dimensions, shares_of(dimensions, groups), strict=True)
    return [
        share if d.group is None or groups[d.group].risen(least) else 0.0 for d, share in pairs
    ]

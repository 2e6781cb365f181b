"""What a found learning rate keeps of the schedule: its falls, not its rises.

The search ends at some point of the schedule, often in its warm-up. From there on the rate
it found stands for the schedule's highest value: where the schedule goes on rising, the rate
stays, since no replica has tried more; where it falls below its own maximum, the rate falls
by the same share. In symbols, s(t) the schedule, k the step at which the search ended:

    s_held(t) = s(t) * s(k) / max over k <= t' <= t of s(t')
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...state import Entries
from ..ensemble.group_values import LARGEST_RATE
from .dimensions import Dimension


@dataclass
class HeldSchedule:
    """The schedule of one parameter group.

    Attributes:
        now: s(t).
        highest: the largest s so far; since the search ended, if there was one.
        ended_at: s(k); None while searching, or where there was no search.
    """

    now: float
    highest: float
    ended_at: float | None = None

    def advance(self, value: float) -> None:
        """Go on to the next step's value."""
        self.now = value
        self.highest = max(self.highest, value)

    def end_search(self) -> None:
        """Hold what the schedule is now."""
        self.ended_at = self.highest = self.now

    def resume_search(self) -> None:
        """Follow the schedule as it is again: the search had ended for a wrong reason."""
        self.ended_at = None

    @property
    def value(self) -> float:
        """s_held(t)."""
        if self.ended_at is None or self.highest == 0:
            return self.now
        # The quotient first: at the maximum it is exactly 1.
        return self.ended_at * (self.now / self.highest)

    @property
    def scale(self) -> float:
        """s_held(t) / s(t), which is constant once the schedule has passed its maximum."""
        if self.ended_at is None or self.highest == 0:
            return 1.0
        return self.ended_at / self.highest

    @property
    def share(self) -> float:
        """s(t) as a share of its maximum: 1 until the rate decays."""
        return self.now / self.highest if self.highest > 0 else 1.0

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
        ended_at = entries.optional("ended_at", entries.number, low=0, high=LARGEST_RATE)
        return cls(now, highest, ended_at)


def shares_of(dimensions: Sequence[Dimension], groups: Sequence[HeldSchedule]) -> list[float]:
    """Return for each dimension its schedule's share of the maximum; 1 where it has none."""
    return [1.0 if d.group is None else groups[d.group].share for d in dimensions]

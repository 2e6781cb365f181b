"""Oort's pacer: how long a round may take before slow clients lose score.

The preferred duration T is a percentile of the known durations. While only fast clients are
chosen, their utility dries up: when it has become flat, the percentile rises and slower clients
come in.

Source: Lai et al., "Oort", OSDI 2021 (arXiv 2010.06081), section 4.3, as its code has it: the
paper raises T by a fixed number of seconds, the code the percentile, which has no unit.
"""

import math
import sys
from typing import Any

from torch import Tensor

from ...state import MOST, Entries

# Change of a window's utility, relative to the window before: flat, and unsteady.
_FLAT, _UNSTEADY = 0.1, 5.0


class Pacer:
    """Moves the percentile by `step`, from `start`, once per window of rounds."""

    def __init__(self, window: int, start: float, step: float) -> None:
        self._window, self._step = window, step
        self.percentile = start
        self._paced = 0
        # Sum and number of the utilities that clients chosen for theirs reported, by round.
        self._reported: dict[int, tuple[float, int]] = {}

    def note(self, number: int, utilities: list[float]) -> None:
        """Take utilities reported by clients of round `number` that were chosen for theirs."""
        if utilities:
            total, count = self._reported.get(number, (0.0, 0))
            self._reported[number] = (total + math.fsum(utilities), count + len(utilities))

    def pace(self, number: int) -> None:
        """Move the percentile if round `number` begins a window, and two lie behind it."""
        window = self._window
        if number <= 2 * window or (number - 1) % window or self._paced == number:
            return
        self._paced = number
        before = self._utility(number - 2 * window, number - window)
        recent = self._utility(number - window, number)
        change = abs(recent - before)
        if change <= _FLAT * before:
            self.percentile = min(100.0, self.percentile + self._step)
        elif change >= _UNSTEADY * before:
            self.percentile = max(self._step, self.percentile - self._step)
        self._reported = {r: v for r, v in self._reported.items() if r >= number - window}

    def preferred(self, durations: Tensor) -> float:
        """Return T in seconds, a percentile of durations without NaN; inf if there are none."""
        known = durations[~durations.isnan()]
        if not len(known):
            return math.inf
        index = min(int(len(known) * self.percentile / 100), len(known) - 1)
        return float(known.kthvalue(index + 1).values)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        reported = [[number, *pair] for number, pair in self._reported.items()]
        return {"percentile": self.percentile, "paced": self._paced, "reported": reported}

    def read(self, entries: Entries, last_round: int) -> "Pacer":
        """Return the pacer of a state of `state_dict`; this one stays as it is."""
        made = Pacer(self._window, entries.number("percentile", 0, 100), self._step)
        made._paced = entries.integer("paced", 0, last_round)
        rows = entries.listed("reported")
        for i in rows.keys():  # noqa: SIM118
            row = rows.listed(i, 3)
            number = row.integer("0", 1, last_round)
            if number in made._reported:
                rows.refuse(i, number, "must be a round that is there once")
            total = row.number("1", 0, sys.float_info.max)
            made._reported[number] = total, row.integer("2", 1, MOST)
        return made

    def _utility(self, first: int, end: int) -> float:
        """Return the sum over rounds first <= r < end of the mean utility reported in r."""
        pairs = [self._reported[r] for r in range(first, end) if r in self._reported]
        return math.fsum(total / count for total, count in pairs)

"""A family of rules that climb to a learning rate by first-order evidence, one rule a row.

x is the log of the factor on the rate that the user wrote. The family's signal is how far the
last update u and the gradient g that follows it agree, smoothed over some steps:

    agreement = -sum(u g) / sum |u g|,   or   cosine = -u.g / (|u| |g|)

- **climb**: x rises from a thousandth, fast while the signal is near its largest. Where it
  falls to zero the rate has crossed: x is cut, and the weights go back to where the rate was
  what it is now, or to the first ones, or stay; Adam's moments are begun anew, or kept.
- **land**: after K crossings, or a quarter of the run, x is the mean (or the largest) of the
  crossings but the first, less a shift.
- **again**: at given fractions of the run the rate may rise once more until the next crossing.
- **hold**: from then on x moves by gain / t times the signal while the schedule is high, and
  the schedule's falls are followed.

Sources: Baydin et al., arXiv 1703.04782 (the agreement is the hypergradient of the learning
rate); the combinations are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .models import DEVICE

START, FAST, FAST_ABOVE = 1e-3, 0.3, 0.7  # of the climb
COOL, AFTER = 5, 0.05  # steps of rest after a crossing, and where the signal begins again
LONGEST = 0.25  # of the run: the climb's longest
STEP_AGAIN, MOST_AGAIN = 0.1, math.log(10)  # of a second climb
LIMIT, GATE = 0.3, 0.8  # of a step of the hold, and of the schedule's highest share
MOST = 8  # crossings that are told


@dataclass(frozen=True)
class Rule:
    """One member of the family; the defaults are the one that all others vary."""

    crossings: int = 4
    cut: float = math.log(3)  # at each crossing, in log rate
    lag: float = 0.5  # more at the first, for the lag of the smoothed signal
    shift: float = math.log(1.25)
    land: str = "mean"  # or `max`
    roll: str = "climb"  # back on the climb, to the `initial` weights, or `none`
    clear: str = "all"  # moments that are begun anew: `all`, the `second`, or `none`
    warmup: float = 12.0  # steps, after moments were begun anew
    restart: bool = False  # whether the schedule begins anew at the first crossing
    smooth: float = 5.0  # steps
    slow: float = 0.1  # the climb's slow step
    signal: str = "agreement"  # or `cosine`
    bias: float = 0.0  # on the signal
    beta2: float = 0.999  # of AdamW in the climb
    gain: float = 20.0
    down: float = 0.3  # factor on moves downward
    hold_by: str = "cosine"  # or `agreement`
    again: tuple[float, ...] = ()  # fractions of the run
    again_shift: float = math.log(1.25)
    fixed: float | None = None  # a plain run at this factor


def share(schedule: str, step: Tensor, steps: Tensor) -> Tensor:
    """Return the share of the peak rate at steps (from 0) of runs."""
    part, warm = step / steps, 0.03
    if schedule == "cosine":
        return 0.5 * (1 + torch.cos(math.pi * part))
    if schedule == "warmup-cosine":
        rising = (step + 1) / (warm * steps)
        falling = 0.5 * (1 + torch.cos(math.pi * (part - warm) / (1 - warm)))
        return torch.where(part < warm, rising, falling).clamp(max=1)
    peak, first, last = 0.3 * steps - 1, 1 / 25, 1 / 250_000  # OneCycleLR's
    after = ((step - peak) / (steps - 1 - peak)).clamp(max=1)
    rising = 1 + (first - 1) * (1 + torch.cos(math.pi * step / peak)) / 2
    falling = last + (1 - last) * (1 + torch.cos(math.pi * after)) / 2
    return torch.where(step <= peak, rising, falling)


class Rows:
    """The rule and its state in every row."""

    def __init__(self, rules: Sequence[Rule], each: int, steps: int) -> None:
        every = [rule for rule in rules for _ in range(each)]
        self.rules, self.steps, self.rows = every, steps, len(every)

        def column(name: str) -> Tensor:
            return torch.tensor([float(getattr(r, name)) for r in every], device=DEVICE)

        def mask(name: str, value: object) -> Tensor:
            return torch.tensor([getattr(r, name) == value for r in every], device=DEVICE)

        self.c = {f.name: column(f.name) for f in fields(Rule) if f.type in (int, float, bool)}
        self.by_cosine, self.to_highest = mask("signal", "cosine"), mask("land", "max")
        self.held_by_agreement = mask("hold_by", "agreement")
        self.is_fixed = ~mask("fixed", None)
        factors = [rule.fixed or START for rule in every]
        self.x = torch.tensor(factors, device=DEVICE).log()
        self.held, self.count = self.is_fixed.clone(), self._full(0).long()
        self.smoothed, self.largest, self.cool = self._full(0), self._full(0), self._full(0)
        self.sum, self.highest, self.counted = self._full(0), self._full(-99), self._full(0)
        self.held_at = self._full(-1)
        self.crossed = torch.full((MOST, self.rows), math.nan, device=DEVICE)
        later = max(len(rule.again) for rule in rules) + 1
        due = [[*rule.again, *[2.0] * (later - len(rule.again))] for rule in every]
        self.due = torch.tensor(due, device=DEVICE)
        self.climbs, self.again_at, self.before = self._full(0).long(), *self._full(0, 2)
        self.climbing_again = torch.zeros_like(self.held)

    def climb(self, t: int, agreement: Tensor, cosine: Tensor) -> Tensor:
        """Move the rows that climb; return those that cross for the first time."""
        signal = torch.where(self.by_cosine, cosine, agreement)
        signal = signal + self.c["bias"]
        moved = self.smoothed + (signal - self.smoothed) / self.c["smooth"]
        self.smoothed = signal if t == 1 else moved
        self.largest = torch.maximum(self.largest, self.smoothed)
        ready = ~self.held & (self.cool <= 0)
        crossed = ready & (self.smoothed <= 0) & (t > 5)
        first, single = crossed & (self.count == 0), self.c["crossings"] == 1
        rows = crossed.nonzero().flatten()
        self.crossed[self.count[rows], rows] = self.x[rows]
        counts = crossed & ((self.count > 0) | single)
        self.sum += torch.where(counts, self.x, 0)
        self.counted += counts
        self.highest = torch.where(counts, self.highest.maximum(self.x), self.highest)
        fast = (self.smoothed > FAST_ABOVE * self.largest) & (self.count == 0)
        self.x += torch.where(ready & ~crossed, self.c["slow"].where(~fast, FAST), 0)
        self.x -= torch.where(crossed, self.c["cut"], 0)
        self.x -= torch.where(first, self.c["lag"], 0)
        self.count += crossed
        self.smoothed = torch.where(crossed, AFTER, self.smoothed)
        self.cool = torch.where(crossed, COOL, (self.cool - 1).clamp(min=0))
        return first

    def land(self, t: int) -> Tensor:
        """Set the rate of rows whose climb is over, and return them."""
        enough = (self.count >= self.c["crossings"]) | (t >= LONGEST * self.steps)
        done = ~self.held & enough
        mean = self.sum / self.counted.clamp(min=1)
        found = torch.where(self.to_highest, self.highest, mean)
        single = self.c["crossings"] == 1
        fall = torch.where(single, self.c["cut"] + self.c["lag"], 0)
        found = found - self.c["shift"] - fall
        self.x = torch.where(done & (self.counted > 0), found, self.x)
        self.held |= done
        self.held_at = torch.where(done, t, self.held_at)
        return done

    def climb_again(self, t: int, began: Tensor) -> None:
        """Begin, continue and end second climbs."""
        part, due = (t - began) / (self.steps - began), self.due.gather(1, self.climbs[:, None])
        free = self.held & ~self.climbing_again & ~self.is_fixed
        start = free & (part >= due[:, 0]) & (t > self.held_at + 10)
        going = self.climbing_again.clone()
        self.before = torch.where(start, self.x, self.before)
        self.again_at = torch.where(start, t, self.again_at)
        self.smoothed = torch.where(start, AFTER, self.smoothed)
        end = (self.smoothed <= 0) & (t > self.again_at + 4)
        end = going & (end | (self.x > self.before + MOST_AGAIN))
        back = self.x - 5 * STEP_AGAIN - self.c["again_shift"]
        self.x += torch.where(going & ~end, STEP_AGAIN, 0)
        self.x = torch.where(end, self.before.maximum(back), self.x)
        self.climbs += end
        self.climbing_again = (going | start) & ~end

    def hold(
        self, t: int, agreement: Tensor, cosine: Tensor, shares: Tensor, highest: Tensor
    ) -> None:
        """Move the rows that hold their rate, while the schedule is near its highest share."""
        high = shares >= torch.where(self.c["restart"] > 0, GATE, GATE * highest)
        signal = torch.where(self.held_by_agreement, agreement, cosine)
        signal = torch.where(signal < 0, self.c["down"] * signal, signal)
        moves = self.held & ~self.is_fixed & ~self.climbing_again & (t > self.held_at + 1)
        gain = (self.c["gain"] / (t + 1)).clamp(max=LIMIT)
        self.x += torch.where(moves & high, gain * signal, 0)

    def _full(self, value: float, *more: int) -> Tensor:
        return torch.full((*more, self.rows), float(value), device=DEVICE)

"""The search for the learning rate's scale: climb to a first bound, then try what lies above.

The search is short, tens of steps, and has three phases. x is the log of the factor on the
rate that the user wrote.

- **climb**: all replicas train at one rate, which rises from far below. The agreement of each
  update with the gradient that follows (`ensemble.update_agreement`) says whether the last
  step was too short. Once it no longer was, smoothed over some steps, the rate is at a bound:

      m <- m + (agreement - m) / tau;     x <- x + (fast if m > share * max m, else slow)
      m <= 0:  x <- x - log(crossing_factor),  back to the weights of that rate, moments anew

  So the climb is a warm-up, and it harms nothing.
- **settle**: some steps at that rate, until the moments are what they are at it.
- **trial**: the bound is safe, but it can be ten times too low: the larger the model and the
  less noise, the lower. So each replica trains alone, on its own gradient, for one short whole
  run with a warm-up and a decay to zero, at a rate of its own from the bound upwards. All
  score one common batch and go back to where the trial began. x moves to the minimum of the
  parabola through the lowest loss and its neighbours. If the largest rate was the best, there
  is another trial from there.

Why trials: what a rate does to one step, or to one interval, says little of what it does to a
run (short-horizon bias, Wu et al., arXiv 1803.02021). A decay at the end takes most of that
away. The numbers are in the documentation.

Pure arithmetic; equal on every rank. Sources: Baydin et al., arXiv 1703.04782 (the agreement is
the hypergradient of the learning rate); Smith, arXiv 1506.01186 (range test); the rest is ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...state import MOST, Entries
from .config import DEFAULT, SearchConfig
from .loss_tracker import LARGEST

Phase = Literal["climb", "settle", "trial", "done"]
PHASES = ("climb", "settle", "trial", "done")
_FARTHEST = 700.0  # log factors that a state may hold: what a float's exponential allows


@dataclass(frozen=True)
class Turn:
    """What has to be done after a step of the search, before the next one.

    Attributes:
        snapshot: keep the weights as they are now.
        roll_back: go back to the newest snapshot at or below `log_factor`, and begin the
            optimizer's moments anew.
        part: from now on each replica trains alone.
        score: the replicas score the probe batch; `judge` takes the losses.
        done: the search is over.
        note: what has happened, for a log.
    """

    snapshot: bool = False
    roll_back: bool = False
    part: bool = False
    score: bool = False
    done: bool = False
    note: str = ""


class RateSearch:
    """The search of one run.

    Args:
        replicas: N, which share out the rates of a trial.
        trials: whether the replicas can train apart and be compared; else the search ends
            with the climb.
        config: the constants.
        highest: log factor at which the climb ends by itself, at the latest.

    Attributes:
        phase: of the steps that come.
        log_factor: x.
        steps: optimizer steps of the phase so far.
    """

    def __init__(
        self,
        replicas: int,
        trials: bool,
        config: SearchConfig = DEFAULT,
        highest: float = math.inf,
    ) -> None:
        self.config = config
        self.highest = min(highest, math.log(config.climb_limit))
        self.replicas = replicas
        self.trials = trials and replicas > 1 and config.max_trials > 0
        self.phase: Phase = "climb"
        self.log_factor = math.log(config.climb_start)
        self.steps = 0
        self.trial = 0  # trials behind it
        self._smoothed = self._largest = 0.0
        self._seen = 0  # agreements so far

    @property
    def begun(self) -> bool:
        """Whether a step has been taken."""
        return self.phase != "climb" or self.steps > 0

    def shifts(self) -> list[float]:
        """Return what each replica's log factor is above x at the step that comes."""
        if self.phase == "settle":
            share = (self.steps + 1) / self.config.restart_warmup
            return [math.log(min(1.0, share))] * self.replicas
        if self.phase == "trial":
            length = self.config.trial_steps
            step = min(self.steps, length - 1)  # the last one's until the trial is judged
            up = (step + 1) / (self.config.trial_warmup * length)
            down = (length - step) / (self.config.trial_decay * length)
            share = math.log(min(1.0, up, down))
            return [x + share for x in self._levels()]
        return [0.0] * self.replicas

    def _levels(self) -> list[float]:
        """Return what each replica's log rate in a trial is above x."""
        config = self.config
        count = min(self.replicas, config.trial_levels)
        spacing = min(
            math.log(config.trial_spacing), math.log(config.trial_span) / max(count - 1, 1)
        )
        return [spacing * (r % count) for r in range(self.replicas)]

    def advance(self, agreement: float | None) -> Turn:
        """Take in a step that was trained, and say what comes.

        Args:
            agreement: of the last update with the gradient after it, -1 to 1; None where
                there was no number, NaN where it was not finite. In a climb, numbers that go
                on missing count as 1: the weights do not move.
        """
        self.steps += 1
        if self.phase == "climb":
            return self._climb(agreement)
        if self.phase == "settle" and self.steps >= self.config.settle_steps:
            if not self.trials:
                self.log_factor += math.log(self.config.untried_rise)
                return self.end("")
            self.phase, self.steps = "trial", 0
            return Turn(part=True)
        score = self.phase == "trial" and self.steps >= self.config.trial_steps
        return Turn(score=score)

    def _climb(self, agreement: float | None) -> Turn:
        config = self.config
        if agreement is None:
            if self.steps - self._seen <= config.agreement_steps:
                return Turn(snapshot=True)
            agreement = 1.0  # the steps are too short to move a weight at all
        if math.isfinite(agreement):
            weight = 1.0 if self._seen == 0 else 1 / config.agreement_steps
            self._smoothed += weight * (agreement - self._smoothed)
            self._largest = max(self._largest, self._smoothed)
            self._seen += 1
        far = self.log_factor >= self.highest
        crossed = self._smoothed <= 0 and self._seen > config.agreement_steps
        if crossed or far or not math.isfinite(agreement):
            crossing = self.log_factor
            self.log_factor -= math.log(config.crossing_factor)
            self.phase, self.steps = "settle", 0
            why = "the updates no longer agree with the gradients"
            if not crossed:
                why = "nothing stops it" if far else "a gradient is not finite"
            note = f"the climb ends at lr factor {math.exp(crossing):.3g}: {why}"
            return Turn(roll_back=True, note=note)
        quick = self._smoothed > config.climb_fast_above * self._largest
        self.log_factor += config.climb_fast if quick else config.climb_slow
        return Turn(snapshot=True)

    def judge(self, losses: Sequence[float]) -> Turn:
        """Take in the replicas' losses at the end of a trial, and say what comes."""
        rows: dict[float, list[float]] = {}
        for level, loss in zip(self._levels(), losses, strict=True):
            rows.setdefault(level, []).append(loss if abs(loss) < LARGEST else math.inf)
        levels = sorted(rows)
        means = [math.fsum(rows[x]) / len(rows[x]) for x in levels]
        best = min(range(len(levels)), key=means.__getitem__)
        base = self.log_factor
        finite = math.isfinite(means[best])
        self.log_factor += _lowest(levels, means, best) if finite else levels[0]
        self.trial += 1
        again = best == len(levels) - 1 and self.trial < self.config.max_trials
        if not again:
            self.log_factor -= math.log(self.config.trial_caution)
        tried = ", ".join(
            f"{math.exp(base + x):.3g}: {loss:.4g}"
            for x, loss in zip(levels, means, strict=True)
        )
        note = (
            f"trial {self.trial}, loss by lr factor {tried}; "
            f"lr factor {math.exp(self.log_factor):.3g}"
        )
        if not again:
            return self.end(note)
        self.steps = 0
        return Turn(part=True, note=note)

    def postpone_trial(self) -> None:
        """Begin the trial again after the next step: its weights were given up."""
        self.phase, self.steps = "settle", self.config.settle_steps - 1

    def end(self, note: str) -> Turn:
        """Stay where the search stands; `note` says why."""
        self.phase, self.steps = "done", 0
        return Turn(done=True, note=note)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "phase": self.phase,
            "trials": self.trials,
            "log_factor": self.log_factor,
            "steps": self.steps,
            "trial": self.trial,
            "smoothed": self._smoothed,
            "largest": self._largest,
            "seen": self._seen,
        }

    def parsed(self, entries: Entries) -> "RateSearch":
        """Return the search that a state describes, for the replicas that are here."""
        fresh = RateSearch(self.replicas, self.trials, self.config, self.highest)
        phase = entries.text("phase", PHASES)
        fresh.phase = next(known for known in PHASES if known == phase)
        fresh.log_factor = entries.number("log_factor", -_FARTHEST, _FARTHEST)
        length = {"settle": self.config.settle_steps, "trial": self.config.trial_steps}
        fresh.steps = entries.integer("steps", 0, length.get(phase, MOST + 1) - 1)
        fresh.trial = entries.integer("trial", 0, self.config.max_trials)
        fresh._smoothed = entries.number("smoothed", -1.0, 1.0)
        fresh._largest = entries.number("largest", 0.0, 1.0)
        fresh._seen = entries.integer("seen")
        if phase == "trial" and not fresh.trials:
            fresh.postpone_trial()  # and so the search ends with the next step
        return fresh


def _lowest(xs: Sequence[float], losses: Sequence[float], best: int) -> float:
    """Return where the parabola through the lowest loss and its neighbours is lowest.

    At an end, or where a neighbour is not finite, it is the lowest point itself; it never
    goes more than half way to a neighbour.
    """
    if best in (0, len(xs) - 1) or not math.isfinite(losses[best - 1] + losses[best + 1]):
        return xs[best]
    before, after = xs[best] - xs[best - 1], xs[best + 1] - xs[best]
    left, right = losses[best - 1] - losses[best], losses[best + 1] - losses[best]
    curved = left * after + right * before
    if curved <= 0:
        return xs[best]
    vertex = (left * after**2 - right * before**2) / (2 * curved)
    return xs[best] + min(max(vertex, -before / 2), after / 2)

"""The search for the learning rate's scale: climb to a first bound, then try what lies above.

The search is short, 40 to 90 steps and a warm-up, and has four phases. x is the log of the
factor on the rate that the user wrote.

- **climb**: all replicas train at one rate, which rises from far below. The agreement a of each
  update with the gradient that follows (`ensemble.update_agreement`) says whether the last
  step was too short: it is the hypergradient of x, and x follows it. Once little is left of it,
  smoothed over some steps, the rate is at a bound:

      m <- m + (a - m) / tau;     x <- x + climb_gain * max(0, min(a, m)) / max m
      m <= crossing_share * max m:  x <- x - log(crossing_factor),
                                    back to the weights of that rate, moments anew

  The lesser of a and m: m lags, and where a falls at once the rate stops at once. So the climb
  is a warm-up, and it harms nothing.
- **settle**: some steps at that rate, until the moments are what they are at it.
- **trial**: the bound is safe, but it can be ten times too low: the larger the model and the
  less noise, the lower. So each replica trains alone, on its own gradient, for one short whole
  run with a warm-up and a decay to zero, at a rate of its own from the bound upwards. All
  score one common batch and go back to where the trial began. If the largest rate was the
  best, or cannot be told from it and beats the smallest, there is another trial from there: the
  best may lie beyond. Then x moves to the mean of all x_i that were tried, weighted by their
  losses L_i, with L_0 before the trial and L* the least of all:

      w_i = exp(-(L_i - L*) / (tolerance * (L_0 - L*)))
      x <- sum(w_i x_i) / sum(w_i) + log(min(rise, gain^power))

  For trials so short are noisy: the lowest loss alone is no evidence. The rise is there because
  a replica that trains alone has the noise of its own batch and little time to remove it: it
  prefers lower rates than the run, whose batch is that of all replicas. The gain says how much
  less noise that has (`ensemble.gradient_gain`): without noise there is nothing to make up for.
- **warmup**: the moments begin anew, and the rate rises from zero to the one found, on the
  user's schedule. The schedule's own warm-up may be over by now, and the damage of a jump
  stays. Once the schedule falls, the warm-up is faster: it would take the time that is left
  at high rates.

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

Phase = Literal["climb", "settle", "trial", "warmup", "done"]
PHASES = ("climb", "settle", "trial", "warmup", "done")
SEARCHING = PHASES[:-1]
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
        found: the rate is found: from now on it is on the schedule; begin the moments anew.
        done: the search is over.
        note: what has happened, for a log.
        lost: whether that is a gradient that is not finite.
    """

    snapshot: bool = False
    roll_back: bool = False
    part: bool = False
    score: bool = False
    found: bool = False
    done: bool = False
    note: str = ""
    lost: bool = False


class RateSearch:
    """The search of one run.

    Args:
        replicas: N, which share out the rates of a trial.
        trials: whether the replicas can train apart and be compared; else the search ends
            with the climb.
        config: the constants.
        bounds: lowest and highest log factor that any rate follows. Beyond them nothing would
            be trained at what is tried; the climb ends by itself at the highest.

    Attributes:
        phase: of the steps that come.
        log_factor: x.
        steps: optimizer steps of the phase so far; in the warm-up, those on a schedule that
            falls count `warmup_pace` times.
        decaying: whether the schedule has fallen below its maximum. Set it where the rate is
            found and after each step of the warm-up, the same on every rank.
    """

    def __init__(
        self,
        replicas: int,
        trials: bool,
        config: SearchConfig = DEFAULT,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        self.config = config
        self.bounds = bounds
        self.highest = min(bounds[1], math.log(config.climb_limit))
        self.replicas = replicas
        self.trials = trials and replicas > 1 and config.max_trials > 0
        self.phase: Phase = "climb"
        self.log_factor = math.log(config.climb_start)
        self.steps = 0
        self.trial = 0  # trials behind it
        self._initial = math.inf  # L_0
        self._tried: list[tuple[float, float]] = []  # x_i, L_i
        self._gains: list[float] = []  # of the trials whose gradients are known
        self._smoothed = self._largest = 0.0
        self._seen = 0  # agreements so far
        self.decaying = False

    @property
    def begun(self) -> bool:
        """Whether a step has been taken."""
        return self.phase != "climb" or self.steps > 0

    @property
    def found(self) -> bool:
        """Whether the rate is found, so that the schedule is followed."""
        return self.phase in ("warmup", "done")

    def shifts(self) -> list[float]:
        """Return what each replica's log factor is above x at the step that comes."""
        if self.phase == "settle":
            share = (self.steps + 1) / self.config.restart_warmup
            return [math.log(min(1.0, share))] * self.replicas
        if self.phase == "warmup":
            share = (self.steps + self._pace) / self.config.warmup_steps
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
        room = max(0.0, self.bounds[1] - self.log_factor)
        return [min(spacing * (r % count), room) for r in range(self.replicas)]

    @property
    def _pace(self) -> int:
        """How many steps the one that comes counts for."""
        hurried = self.phase == "warmup" and self.decaying
        return self.config.warmup_pace if hurried else 1

    def advance(self, agreement: float | None) -> Turn:
        """Take in a step that was trained, and say what comes.

        Args:
            agreement: of the last update with the gradient after it, -1 to 1; None where
                there was no number, NaN where it was not finite. In a climb, numbers that go
                on missing count as 1: the weights do not move.
        """
        self.steps += self._pace
        if self.phase == "climb":
            return self._climb(agreement)
        if self.phase == "settle" and self.steps >= self.config.settle_steps:
            if not self.trials:
                self.log_factor += math.log(self.config.untried_rise)
                return self.find("")
            self.phase, self.steps = "trial", 0
            return Turn(part=True)
        if self.phase == "warmup" and self.steps >= self.config.warmup_steps:
            return self.end("")
        score = self.phase == "trial" and self.steps >= self.config.trial_steps
        return Turn(score=score)

    def _climb(self, agreement: float | None) -> Turn:
        config = self.config
        if agreement is None:
            if self.steps - self._seen <= config.agreement_steps:
                return Turn(snapshot=True)
            agreement = 1.0  # the steps are too short to move a weight at all
        if math.isfinite(agreement):
            agreement = min(1.0, max(-1.0, agreement))  # sums in float32 may round beyond
            weight = 1.0 if self._seen == 0 else 1 / config.agreement_steps
            self._smoothed += weight * (agreement - self._smoothed)
            self._largest = max(self._largest, self._smoothed)
            self._seen += 1
        far = self.log_factor >= self.highest
        least = config.crossing_share * self._largest
        crossed = self._smoothed <= least and self._seen > config.agreement_steps
        if crossed or far or not math.isfinite(agreement):
            crossing = self.log_factor
            self.log_factor = max(crossing - math.log(config.crossing_factor), self.bounds[0])
            self.phase, self.steps = "settle", 0
            why = "the updates no longer agree with the gradients"
            if not crossed:
                why = "nothing stops it" if far else "a gradient is not finite"
            note = f"the climb ends at lr factor {math.exp(crossing):.3g}: {why}"
            return Turn(roll_back=True, note=note, lost=not (crossed or far))
        lesser = min(agreement, self._smoothed)
        if lesser > 0:
            self.log_factor += config.climb_gain * lesser / self._largest
        return Turn(snapshot=True)

    @property
    def first_trial(self) -> bool:
        """Whether no trial has been judged: `before_trials` is due where one begins."""
        return self.trial == 0

    def before_trials(self, loss: float) -> None:
        """Take in the loss, on the batches of the first trial, where it begins."""
        self._initial = loss if abs(loss) < LARGEST else math.inf

    def compare_gradients(self, own: float, shared: float) -> None:
        """Take in mean_i |g_i|^2 and |mean_i g_i|^2 at the first step of a trial.

        Zero and what is not finite tell nothing.
        """
        if 0 < own < math.inf and 0 < shared < math.inf:
            # Rounding may put the norm of the mean above the mean of the norms.
            self._gains.append(min(max(1.0, own / shared), LARGEST))

    def judge(self, losses: Sequence[float]) -> Turn:
        """Take in the replicas' losses at the end of a trial, and say what comes."""
        rows: dict[float, list[float]] = {}
        for level, loss in zip(self._levels(), losses, strict=True):
            rows.setdefault(level, []).append(loss if abs(loss) < LARGEST else math.inf)
        means = {level: math.fsum(row) / len(row) for level, row in rows.items()}
        self._tried += [(self.log_factor + level, means[level]) for level in sorted(means)]
        self.trial += 1
        again = self._open_above(means) and self.trial < self.config.max_trials
        if again:
            self.log_factor += max(means)
        else:
            self.log_factor = self._weighted()
        tried = ", ".join(f"{math.exp(x):.3g}: {loss:.4g}" for x, loss in self._tried)
        gain = "" if self._gain is None else f"; gradient gain {self._gain:.3g}"
        note = (
            f"trial {self.trial}, loss {self._initial:.4g} before, by lr factor {tried}{gain}; "
            f"lr factor {math.exp(self.log_factor):.3g}"
        )
        if not again:
            return self.find(note)
        self.steps = 0
        return Turn(part=True, note=note)

    def _open_above(self, means: dict[float, float]) -> bool:
        """Return whether the best rate may lie above all of a trial, given loss by level."""
        smallest, largest, least = min(means), max(means), min(means.values())
        if smallest == largest:
            return False
        alike = self.config.trial_tolerance * (self._initial - least)
        if not 0 < alike < math.inf:  # nothing is gained, or by how much is not known
            alike = 0.0
        return means[largest] < means[smallest] and means[largest] <= least + alike

    def tried(self) -> dict[str, Any]:
        """Return the loss before the trials, and the loss of each factor that was tried."""
        return {
            "before": self._initial,
            "factors": [math.exp(x) for x, _ in self._tried],
            "losses": [loss for _, loss in self._tried],
        }

    def _weighted(self) -> float:
        """Return the weighted mean of what was tried, risen; the least if nothing is finite."""
        finite = [(x, loss) for x, loss in self._tried if math.isfinite(loss)]
        if not finite:
            return min(x for x, _ in self._tried)
        x_best, least = min(finite, key=lambda pair: pair[1])
        scale = self.config.trial_tolerance * (self._initial - least)
        if not scale > 0:  # no rate has gained anything
            return x_best
        weights = [math.exp((least - loss) / scale) for _, loss in finite]
        mean = math.fsum(w * x for w, (x, _) in zip(weights, finite, strict=True))
        return mean / math.fsum(weights) + self._rise()

    @property
    def _gain(self) -> float | None:
        """The gradients' gain, the mean over the trials; None where none is known."""
        return math.fsum(self._gains) / len(self._gains) if self._gains else None

    def _rise(self) -> float:
        """Return by how much the log rate found is above the mean of what was tried."""
        most = math.log(self.config.trial_rise)
        if self._gain is None:
            return most
        return min(most, self.config.gain_power * math.log(self._gain))

    def postpone_trial(self) -> None:
        """Begin the trial again after the next step: its weights were given up."""
        self.phase, self.steps = "settle", self.config.settle_steps - 1

    def resume_trial(self, steps: int) -> None:
        """Go on after `steps` of the trial, which was only set aside."""
        self.phase, self.steps = "trial", steps

    def find(self, note: str) -> Turn:
        """Warm up to where the search stands; `note` says why."""
        self.phase, self.steps = "warmup", 0
        return Turn(found=True, note=note)

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
            "initial": self._initial,
            "tried": [x for x, _ in self._tried],
            "tried_losses": [loss for _, loss in self._tried],
            "gains": list(self._gains),
            "smoothed": self._smoothed,
            "largest": self._largest,
            "seen": self._seen,
            "decaying": self.decaying,
        }

    def parsed(self, entries: Entries) -> "RateSearch":
        """Return the search that a state describes, for the replicas that are here."""
        fresh = RateSearch(self.replicas, self.trials, self.config, self.bounds)
        phase = entries.text("phase", PHASES)
        fresh.phase = next(known for known in PHASES if known == phase)
        fresh.log_factor = entries.number("log_factor", -_FARTHEST, _FARTHEST)
        length = {
            "settle": self.config.settle_steps,
            "trial": self.config.trial_steps,
            "warmup": self.config.warmup_steps,
        }
        fresh.steps = entries.integer("steps", 0, length.get(phase, MOST + 1) - 1)
        fresh.trial = entries.integer("trial", 0, self.config.max_trials)
        if entries.has("tried"):  # states of v0.1 have none
            fresh._initial = entries.number("initial", -LARGEST, finite=False)
            tried = entries.numbers("tried", None, -_FARTHEST, _FARTHEST)
            losses = entries.numbers("tried_losses", len(tried), -LARGEST, finite=False)
            fresh._tried = list(zip(tried, losses, strict=True))
        if entries.has("gains"):
            fresh._gains = list(entries.numbers("gains", None, 1.0, LARGEST))
        fresh._smoothed = entries.number("smoothed", -1.0, 1.0)
        fresh._largest = entries.number("largest", 0.0, 1.0)
        fresh._seen = entries.integer("seen")
        if entries.has("decaying"):  # states of v0.1 have none
            fresh.decaying = entries.boolean("decaying")
        if phase == "trial" and not fresh.trials:
            fresh.postpone_trial()  # and so the search ends with the next step
        return fresh

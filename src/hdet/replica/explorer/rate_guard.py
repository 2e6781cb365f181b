"""What becomes of the learning rates where the loss spikes: back, and down to a third.

If more than a quarter of the run's improvement is lost, the caller goes back to the averaged
weights and the rates fall: see `recovery`. Replicas that have diverged are counted here too.

Pure arithmetic on gathered numbers; equal on every rank. Exclusion, rollback and averaged
weights are ours.
"""

import math
from dataclasses import dataclass
from typing import Any

from ...state import Entries
from .config import DEFAULT, SearchConfig
from .loss_tracker import LARGEST, LossTracker
from .recovery import Outcome, Recovery, Verdict


@dataclass(frozen=True)
class Move:
    """What a sync does to the scale of the rates.

    Attributes:
        step: added to the log rates: the fall at a rollback, or what such falls took; 0 where
            each rate is tracked on its own.
        rollback: whether all go back to the averaged weights.
        given_back: whether the rates get back what falls took.
        new_level: whether a new level of the loss was accepted.
        note: what has happened, in words for a log; nothing where all is well.
    """

    step: float
    rollback: bool
    given_back: bool
    new_level: bool
    note: str


class RateGuard:
    """What is known of the losses, and of spikes; the same on every rank.

    Args:
        config: the constants.

    Attributes:
        tracker: the losses.
        rollbacks: how often the run went back to the averaged weights.
        exclusions: at how many syncs replicas were excluded.
        recovery: what is known of the last rollbacks.
    """

    def __init__(self, config: SearchConfig = DEFAULT) -> None:
        self.config = config
        self.tracker = LossTracker(config)
        self.rollbacks = self.exclusions = 0
        self.recovery = Recovery(config)

    def update(self, loss: float, lowest: float, excluded: bool, log_rate: float) -> Move:
        """Take in one sync and say what becomes of the log rate.

        Args:
            loss: the mean training loss of the interval.
            lowest: the lowest of the replicas' losses on one batch, or the median of those
                on their own.
            excluded: whether replicas are excluded from the average.
            log_rate: before the sync, the mean of them if there are several.
        """
        loss = loss if abs(loss) < LARGEST else math.inf
        self.tracker = self.recovery.measure(self.tracker, loss, lowest)
        verdict = self.recovery.classify(self.tracker, loss, lowest)
        rollback, implausible = verdict == "rollback", loss > self.tracker.ceiling
        note = self._note(verdict, loss)
        if verdict == "new level":
            self.tracker = self.recovery.put_on_trial(self.tracker, loss)
        if math.isfinite(loss) and (self.tracker.settled or not rollback):
            self.tracker.update(loss)
        step = 0.0
        self.exclusions += excluded
        if rollback:
            self.rollbacks += 1
            self.tracker.smoothed = min(self.tracker.smoothed, self.tracker.best)
            step = -self.recovery.roll_back(loss, log_rate, implausible)
        calm = verdict == "calm" and math.isfinite(loss) and not excluded
        outcome = self.recovery.settle(self.tracker, calm)
        if outcome:
            note = self._outcome_note(outcome)
            step = self.recovery.given_back(log_rate)
        return Move(step, rollback, outcome != "", outcome == "new level", note)

    def _note(self, verdict: Verdict, loss: float) -> str:
        """Say what has happened, in words for a log; nothing where all is well."""
        if verdict == "calm":
            return ""
        if verdict == "new level":
            return f"the loss is as high after the rollback ({loss:.3g}): a new level on trial"
        if not math.isfinite(loss):
            return "the loss is not finite"
        return (
            f"loss spike ({loss - self.tracker.best:.3g} above the best smoothed loss "
            f"{self.tracker.best:.3g}, improvement {self.tracker.improvement:.3g})"
        )

    def _outcome_note(self, outcome: Outcome) -> str:
        if outcome == "new level":
            return f"the loss stays at {self.tracker.smoothed:.3g}, a new level"
        return "all is calm since the rollback, and the rate is tried again"

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        state = {key: value for key, value in vars(self).items() if key != "config"}
        parts = {"tracker": self.tracker.state_dict(), "recovery": self.recovery.state_dict()}
        return {**state, **parts}

    @classmethod
    def parsed(cls, entries: Entries, config: SearchConfig) -> "RateGuard":
        """Return the guard that a state describes."""
        fresh = cls(config)
        fresh.tracker = LossTracker.parsed(entries.entries("tracker"), config)
        fresh.rollbacks = entries.integer("rollbacks")
        fresh.exclusions = entries.integer("exclusions")
        # The first states knew nothing of new levels.
        if entries.has("recovery"):
            fresh.recovery = Recovery.parsed(entries.entries("recovery"), config)
        return fresh

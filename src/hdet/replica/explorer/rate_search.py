"""The search for the learning rate's scale: rise from below, stop at the edge, track.

A rate that starts far too high destroys the model before anything can be measured, so the
search begins below the schedule, at `search_start` of it. While replicas with larger rates do
better on the common probe batch, the rate rises, and never beyond what a replica has tried. It
is an LR range test inside the run, at the cost of the first syncs. It ends

- where the confidence has turned: smaller rates do better, clearly and for several syncs;
- where replicas have diverged: their losses stand above the best one's by more than all that
  the run has gained so far. Those replicas are excluded from the average (the others are points
  of the same line search, further back), and the rate returns to the best replica's.

From then on the rate is tracked: the schedule may lower it, not raise it. Small moves follow
the slope of the probe loss at *averaged weights*. The slope at the current weights asks for
ever smaller rates, since a smaller step damps the noise at once (short-horizon bias, Wu et
al., arXiv 1803.02021); averaging damps it already, and what is left is progress. The moves
fade as the schedule decays, where noise is what the decay is there to remove.

If the loss spikes all the same (more than a quarter of the improvement is lost), the caller
goes back to the averaged weights, and the rate falls to a third: see `recovery`.

Pure arithmetic on gathered numbers; equal on every rank. Sources: HDET (arXiv 2604.24708)
for replicas as points of a line search; the search, exclusion and averaged weights are ours.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from ...state import Entries
from .config import DEFAULT, SearchConfig
from .loss_tracker import LARGEST, LossTracker
from .recovery import Outcome, Recovery, Verdict

Phase = Literal["search", "track"]


@dataclass(frozen=True)
class Move:
    """What a sync does to the scale of the rates.

    Attributes:
        step: added to the log rates: the search's step, the fall at a rollback, or what such
            falls took; 0 where each rate is tracked on its own.
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


class RateSearch:
    """What the search knows; the same on every rank.

    Args:
        searching: whether it begins below the schedule; else it tracks from the beginning.
        config: the constants.

    Attributes:
        searching: whether the search goes on.
        confidence: the mean confidence, smoothed over the syncs.
        seen: whether the rates could ever be told apart.
        tracker: the losses.
        rollbacks: how often the run went back to the averaged weights.
        exclusions: at how many syncs replicas were excluded.
        recovery: what is known of the last rollbacks.
    """

    def __init__(self, searching: bool, config: SearchConfig = DEFAULT) -> None:
        self.config = config
        self.searching = searching
        self.confidence = 0.0
        self.seen = False
        self.tracker = LossTracker(config)
        self.rollbacks = self.exclusions = 0
        self.recovery = Recovery(config)

    @property
    def phase(self) -> Phase:
        """Whether the scale of the rates is searched, or they are tracked one by one."""
        return "search" if self.searching else "track"

    def update(
        self, confidence: float, loss: float, lowest: float, excluded: bool, log_rate: float
    ) -> Move:
        """Take in one sync and say what becomes of the log rate.

        Args:
            confidence: that larger rates are better, -1 to 1, the mean over the rates.
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
        past = self.config.confidence_decay
        self.confidence = past * self.confidence + (1 - past) * confidence
        if math.isfinite(loss) and (self.tracker.settled or not rollback):
            self.tracker.update(loss)
        self.seen |= self.confidence > self.config.signal_confidence
        searched = self.searching
        self.searching &= not (self._turned() or excluded or rollback)
        step = self._step() if self.searching else 0.0
        if excluded:
            self.confidence = min(self.confidence, 0.0)
        self.exclusions += excluded
        if rollback:
            self.rollbacks += 1
            self.confidence = 0.0
            self.tracker.smoothed = min(self.tracker.smoothed, self.tracker.best)
            step = -self.recovery.roll_back(loss, log_rate, searched, implausible)
        calm = verdict == "calm" and math.isfinite(loss) and not excluded
        outcome = self.recovery.settle(self.tracker, calm)
        if outcome:
            note = self._outcome_note(outcome)
            self.searching |= self.recovery.searching
            step = self.recovery.given_back(log_rate)
        return Move(step, rollback, outcome != "", outcome == "new level", note)

    def _turned(self) -> bool:
        """Return whether smaller rates do better by now."""
        low = self.config.search_end_confidence
        down = self.confidence <= low or (self.tracker.rising and self.confidence <= 0)
        return self.seen and down

    def _step(self) -> float:
        """Return by how much the search raises the log rates."""
        undecided = not self.seen and self.confidence > self.config.search_end_confidence
        least = self.config.search_drift if undecided else 0.0
        return self.config.search_width * max(self.confidence, least)

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
    def parsed(cls, entries: Entries, config: SearchConfig) -> "RateSearch":
        """Return the search that a state describes."""
        fresh = cls(entries.boolean("searching"), config)
        fresh.confidence = entries.number("confidence", -1.0, 1.0)
        fresh.seen = entries.boolean("seen")
        fresh.tracker = LossTracker.parsed(entries.entries("tracker"), config)
        fresh.rollbacks = entries.integer("rollbacks")
        fresh.exclusions = entries.integer("exclusions")
        # The first states knew nothing of new levels.
        if entries.has("recovery"):
            fresh.recovery = Recovery.parsed(entries.entries("recovery"), config)
        return fresh

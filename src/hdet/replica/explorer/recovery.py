"""When to go back to the averaged weights, and when it is the world that has changed.

A loss spike has two possible causes. The weights were lost: back at the averaged ones the loss
is low again. Or the loss itself has changed (harder data, another term, another scale): then it
is as high there, and no rollback will ever help. So what follows a rollback is measured:

- the loss is normal again: the rollback has helped, or what happened is over;
- it is as high as before the rollback: no further one. The new level is on trial, with a fresh
  `LossTracker`, until its noise is known. If the loss has stayed up by then, the level is
  accepted: the rate gets back what the rollbacks took, and from then on twice as much has to be
  lost before the next rollback. If it has become normal, the old tracker is;
- it is elsewhere, or not finite: another rollback, at most `max_rollbacks` in a row.

A rollback lowers the rate to a third, unless the rate stands well below one that was blamed
before, and all has been calm there: then it is not the rate's fault. However often something
goes wrong, the rate stays within three falls of the highest that was blamed. And a rate that
is too high shows in losses that rise, while one bad batch or gradient makes them implausible at
once. After such a rollback the rate is tried again when all has been calm for a few syncs, and
stays low if that ends in another rollback soon.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from ...state import Entries
from .config import DEFAULT, SearchConfig
from .loss_tracker import LARGEST, LossTracker

_FARTHEST = 700.0  # log rates that a state may hold: what a float's exponential allows

Verdict = Literal["calm", "rollback", "new level"]
Outcome = Literal["", "new level", "try again"]


@dataclass
class Recovery:
    """The rollbacks in a row so far, and what may become of a new level.

    Attributes:
        config: the constants.
        row: consecutive rollbacks; 0 when all is well.
        unsettled: syncs for which all has to be calm until they are over.
        loss: at the last of them, or of the level on trial; infinite if it was not finite.
        start: the log rate before them.
        lowered: by how much they have lowered it.
        steady: calm syncs since the last rollback, at most `steady_syncs`.
        implausible: whether the loss was implausible at each of them.
        blamed: the highest log rate that was blamed; None if none was.
        blamed_before: the same before them.
        before: the losses up to the level that is on trial; None where none is.
        new_levels: accepted so far.
        proving: syncs left within which a rate that is tried again has to prove itself.
    """

    config: SearchConfig = DEFAULT
    row: int = 0
    unsettled: int = 0
    loss: float = 0.0
    start: float = 0.0
    lowered: float = 0.0
    steady: int = 0
    implausible: bool = False
    blamed: float | None = None
    blamed_before: float | None = None
    before: LossTracker | None = None
    new_levels: int = 0
    proving: int = 0

    @property
    def patience(self) -> float:
        """How many times more than usual has to be lost for a rollback."""
        return 2.0 ** min(self.new_levels, self.config.max_doublings)

    def measure(self, tracker: LossTracker, loss: float, lowest: float) -> LossTracker:
        """Return what an interval's loss is to be measured by: the old level, or the new."""
        if self.before is None:
            return tracker
        old_again = math.isfinite(loss) and not self._spiked(self.before, loss, lowest)
        if old_again or not math.isfinite(loss) or self._spiked(tracker, loss, lowest):
            tracker, self.before = self.before, None
        return tracker

    def classify(self, tracker: LossTracker, loss: float, lowest: float) -> Verdict:
        """Say what an interval's loss asks for."""
        spent = self.row >= self.config.max_rollbacks
        if math.isfinite(loss):
            if not self._spiked(tracker, loss, lowest):
                if self.before is None:
                    self.row = 0
                return "calm"
            if self.row and (spent or self._same(tracker, loss)):
                return "new level"
        return "calm" if spent else "rollback"

    def _spiked(self, tracker: LossTracker, loss: float, lowest: float) -> bool:
        return tracker.spiked(loss, lowest, self.patience)

    def _same(self, tracker: LossTracker, loss: float) -> bool:
        """Return whether the loss is as high as before the rollback."""
        height, factor = self.loss - tracker.best, self.config.same_level_factor
        return height / factor <= loss - tracker.best <= factor * height

    def roll_back(self, loss: float, log_rate: float, implausible: bool) -> float:
        """Count a rollback, and say by how much it lowers the log rate."""
        if not self.unsettled:
            self.blamed_before = self.blamed
            self.start, self.lowered = log_rate, 0.0
            self.implausible = not self.proving
        self.row += 1
        self.unsettled = self.config.calm_syncs
        self.loss = loss
        self.implausible &= implausible
        most = self.config.rollback_fall
        if self.blamed is None or log_rate > self.blamed - math.log(self.config.blame_factor):
            self.blamed = log_rate if self.blamed is None else max(log_rate, self.blamed)
            fall = most
        elif self.steady == self.config.steady_syncs:
            fall = 0.0
        else:
            lowest = self.blamed - (self.config.max_rollbacks + 0.5) * most
            fall = min(max(log_rate - lowest, 0.0), most)
        self.steady = 0
        self.lowered += fall
        return fall

    def put_on_trial(self, tracker: LossTracker, loss: float) -> LossTracker:
        """Begin to measure by a new level, which `loss` is; return its tracker."""
        self.before, self.loss = tracker, loss
        return LossTracker(self.config)

    def settle(self, tracker: LossTracker, calm: bool) -> Outcome:
        """Say whether the rollbacks are over, and the rate gets back what they took.

        `calm` is whether there was nothing amiss at this sync.
        """
        self.proving -= self.proving > 0
        self.steady = min(self.steady + calm, self.config.steady_syncs)
        if self.before is not None:
            return self._settle_level(tracker, self.before)
        if not (calm and self.unsettled):
            return ""
        self.unsettled -= 1
        if self.unsettled or not self.implausible:
            return ""
        self.proving = self.config.retry_syncs
        return "try again"

    def _settle_level(self, tracker: LossTracker, before: LossTracker) -> Outcome:
        """End the trial of a new level once its noise is known."""
        if not tracker.settled:
            return ""
        stayed = tracker.best - before.best >= 0.5 * (self.loss - before.best)
        self.before, self.row, self.unsettled = None, 0, 0
        if not stayed:
            return ""
        self.new_levels += 1
        self.blamed = self.blamed_before
        return "new level"

    def given_back(self, log_rate: float) -> float:
        """Return how far the log rate is to rise again: not beyond where it was."""
        return min(self.lowered, max(self.start - log_rate, 0.0))

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        state = {key: value for key, value in vars(self).items() if key != "config"}
        return {**state, "before": self.before and self.before.state_dict()}

    @classmethod
    def parsed(cls, entries: Entries, config: SearchConfig) -> "Recovery":
        """Return what a state describes."""

        def log_rate(key: str) -> float:
            return entries.number(key, -_FARTHEST, _FARTHEST)

        before = None
        if entries.raw("before") is not None:
            before = LossTracker.parsed(entries.entries("before"), config)
        return cls(
            config,
            row=entries.integer("row", 0, config.max_rollbacks),
            unsettled=entries.integer("unsettled", 0, config.calm_syncs),
            loss=entries.number("loss", -LARGEST, finite=False),
            start=log_rate("start"),
            lowered=entries.number("lowered", 0.0, 2 * _FARTHEST),
            steady=entries.integer("steady", 0, config.steady_syncs),
            implausible=entries.boolean("implausible"),
            blamed=entries.optional("blamed", log_rate),
            blamed_before=entries.optional("blamed_before", log_rate),
            before=before,
            new_levels=entries.integer("new_levels"),
            proving=entries.integer("proving", 0, config.retry_syncs),
        )

"""When to return to the averaged weights, and when it is the world that has changed.

A loss that leaps up has two possible causes. The weights were lost: back at the averaged ones
it is low again. Or the loss itself has changed (harder data, another term, another scale):
then it is as high there, and no return will ever help. So what follows a return is measured:

- the loss is normal again: the return has helped, or what happened is over;
- it is as high as before the return: no further one. The new level is on trial, with a fresh
  `LossTracker`, until its noise is known. If the loss has stayed up by then, the level is
  accepted: the rate gets back what the returns took, a climb goes on, and from then on twice
  as much has to be lost before the next return. If it has become normal, the old tracker is;
- it is elsewhere, or not finite: another return, at most `MOST` in a row.

A return lowers the rate to a third, unless the rate stands well below one that was blamed
before, and all has been calm there: then it is not the rate's fault. However often something
goes wrong, the rate stays within three falls of the highest that was blamed. And a rate that
is too high shows in losses that rise, while one bad batch or gradient throws them out of all
proportion at once. After such a return the rate is tried again when all has been calm for a
few syncs, and stays low if that ends in another return soon.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from ...state import Entries
from .loss_tracker import LARGEST, LossTracker

EXPLOSION = math.log(3)  # the fall of the log rate at a return
MOST = 3  # returns in a row
_NEAR = math.log(1.5)  # so near to a rate that was blamed, it is blamed again
_LOWEST = (MOST + 0.5) * EXPLOSION  # below the one blamed: no return lowers it further
_DOUBLINGS = 10  # of the patience
_CALM = 3  # syncs after which what happened is over
_SOON = 5  # syncs within which a rate that was tried again has to prove itself
_LONG = 10  # syncs after which a rate is not to blame
_FARTHEST = 700.0  # log rates that a state may hold: what a float's exponential allows

Verdict = Literal["calm", "return", "new level"]
Settled = Literal["no", "new level", "try again"]


@dataclass
class Returns:
    """The returns in a row so far, and what may become of a new level.

    Attributes:
        row: returns in a row; 0 when all is well.
        unsettled: syncs for which all has to be calm until they are over.
        loss: at the last of them, or of the level on trial; infinite if it was not finite.
        start: the log rate before them.
        lowered: by how much they have lowered it.
        climbing: whether the search climbed before them.
        steady: syncs since the last return; `_LONG` for more.
        wild: whether the losses were out of all proportion at each of them.
        blamed: the highest log rate that was blamed; None if none was.
        blamed_before: the same before them.
        before: the losses up to the level that is on trial; None where none is.
        accepted: new levels so far.
        proving: syncs left within which a rate that is tried again has to prove itself.
    """

    row: int = 0
    unsettled: int = 0
    loss: float = 0.0
    start: float = 0.0
    lowered: float = 0.0
    climbing: bool = False
    steady: int = 0
    wild: bool = False
    blamed: float | None = None
    blamed_before: float | None = None
    before: LossTracker | None = None
    accepted: int = 0
    proving: int = 0

    @property
    def patience(self) -> float:
        """How many times more than usual has to be lost for a return."""
        return 2.0 ** min(self.accepted, _DOUBLINGS)

    def measure(self, tracker: LossTracker, loss: float, lowest: float) -> LossTracker:
        """Return what an interval's loss is to be measured by: the old level, or the new.

        Args:
            tracker: in use so far.
            loss: of the interval; not finite if it has none.
            lowest: as for `RateSearch.update`.
        """
        if self.before is None:
            return tracker
        old_again = math.isfinite(loss) and not self._exploded(self.before, loss, lowest)
        if old_again or not math.isfinite(loss) or self._exploded(tracker, loss, lowest):
            tracker, self.before = self.before, None
        return tracker

    def judge(self, tracker: LossTracker, loss: float, lowest: float) -> Verdict:
        """Say what an interval's loss asks for; the arguments are those of `measure`."""
        if math.isfinite(loss):
            if not self._exploded(tracker, loss, lowest):
                if self.before is None:
                    self.row = 0
                return "calm"
            if self.row and (self.row >= MOST or self._as_high(tracker, loss)):
                return "new level"
        return "return" if self.row < MOST else "calm"

    def _exploded(self, tracker: LossTracker, loss: float, lowest: float) -> bool:
        return tracker.exploded(loss, lowest, self.patience)

    def _as_high(self, tracker: LossTracker, loss: float) -> bool:
        height = self.loss - tracker.best
        return 0.5 * height <= loss - tracker.best <= 2 * height

    def lower(self, loss: float, place: float, climbing: bool, wild: bool) -> float:
        """Count a return, and say by how much it lowers the log rate.

        Args:
            loss: of the interval.
            place: the log rate.
            climbing: whether the search has climbed up to now.
            wild: whether the loss is out of all proportion.
        """
        if not self.unsettled:
            self.climbing, self.blamed_before = climbing, self.blamed
            self.start, self.lowered = place, 0.0
            self.wild = not self.proving
        self.row += 1
        self.unsettled = _CALM
        self.loss = loss
        self.wild &= wild
        if self.blamed is None or place > self.blamed - _NEAR:
            self.blamed = place if self.blamed is None else max(place, self.blamed)
            fall = EXPLOSION
        elif self.steady == _LONG:
            fall = 0.0
        else:
            fall = min(max(place - (self.blamed - _LOWEST), 0.0), EXPLOSION)
        self.steady = 0
        self.lowered += fall
        return fall

    def put_on_trial(self, tracker: LossTracker, loss: float) -> LossTracker:
        """Begin to measure by a new level, which `loss` is; return its tracker."""
        self.before, self.loss = tracker, loss
        return LossTracker()

    def settle(self, tracker: LossTracker, calm: bool) -> Settled:
        """Say whether the returns are over, and whether what they took is given back.

        Args:
            tracker: in use now.
            calm: whether there was nothing amiss at this sync.

        Returns:
            "new level" or "try again" where the rate gets back what the returns took.
        """
        self.proving -= self.proving > 0
        self.steady = min(self.steady + calm, _LONG)
        if self.before is not None:
            return self._settle_level(tracker, self.before)
        if not (calm and self.unsettled):
            return "no"
        self.unsettled -= 1
        if self.unsettled or not self.wild:
            return "no"
        self.proving = _SOON
        return "try again"

    def _settle_level(self, tracker: LossTracker, before: LossTracker) -> Settled:
        """End the trial of a new level once its noise is known."""
        if not tracker.settled:
            return "no"
        stayed = tracker.best - before.best >= 0.5 * (self.loss - before.best)
        self.before, self.row, self.unsettled = None, 0, 0
        if not stayed:
            return "no"
        self.accepted += 1
        self.blamed = self.blamed_before
        return "new level"

    def taken(self, place: float) -> float:
        """Return how far the log rate is to rise again: not beyond where it was."""
        return min(self.lowered, max(self.start - place, 0.0))

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        before = None if self.before is None else dict(vars(self.before))
        return {**vars(self), "before": before}

    @classmethod
    def parsed(cls, entries: Entries) -> "Returns":
        """Return what a state describes.

        Raises:
            ValueError: if it is damaged.
        """

        def place(key: str) -> float:
            return entries.number(key, -_FARTHEST, _FARTHEST)

        return cls(
            row=entries.integer("row", 0, MOST),
            unsettled=entries.integer("unsettled", 0, _CALM),
            loss=entries.number("loss", -LARGEST, finite=False),
            start=place("start"),
            lowered=entries.number("lowered", 0.0, 2 * _FARTHEST),
            climbing=entries.boolean("climbing"),
            steady=entries.integer("steady", 0, _LONG),
            wild=entries.boolean("wild"),
            blamed=entries.optional("blamed", place),
            blamed_before=entries.optional("blamed_before", place),
            before=(
                None
                if entries.raw("before") is None
                else LossTracker.parsed(entries.entries("before"))
            ),
            accepted=entries.integer("accepted"),
            proving=entries.integer("proving", 0, _SOON),
        )

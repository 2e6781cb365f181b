"""The search for the learning rate's scale: climb from below, stop at the edge, hold.

A rate that starts far too high destroys the model before anything can be measured, so the
search begins below the schedule, at `START` of it, and climbs. While replicas with larger
rates do better on the common probe batch, the rate rises, and never beyond what a replica
has tried. It is an LR range test inside the run, at the cost of the first syncs. It ends

- where the evidence has turned: smaller rates do better, clearly and for several syncs;
- at a cliff: some replicas' losses stand above the best one's by more than all that the run
  has gained so far. Those replicas are left out of the average (the others are points of the
  same line search, further back), and the rate returns to the best replica's.

From then on the rate is held: the schedule may lower it, not raise it. Small moves follow
the slope of the probe loss at *averaged weights*. The slope at the current weights asks for
ever smaller rates, since a smaller step damps the noise at once (short-horizon bias, Wu et
al., arXiv 1803.02021); averaging damps it already, and what is left is progress. The moves
fade as the schedule decays, where noise is what the decay is there to remove.

If the loss explodes all the same (more than a quarter of the gain is lost), the caller
restores the averaged weights, and the rate falls to a third: see `returns`.

Pure arithmetic on gathered numbers; equal on every rank. Sources: HDET (arXiv 2604.24708)
for replicas as points of a line search; the climb, cliffs and averaged weights are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...state import Entries
from .loss_tracker import LARGEST, NOISE, LossTracker, range_of_noise
from .returns import Returns, Settled, Verdict

START = 0.05  # share of the schedule at which the search begins
CLIMB_WIDTH = math.log(2)  # spread of the log rates while climbing; also the largest move
HOLD_GAIN = 0.1  # largest move of a log value at a sync while holding
_MEMORY = 0.6  # of the smoothed evidence
_TURNED = -0.3  # smoothed evidence at which the climb ends
_SEEN = 0.5  # smoothed evidence that shows the rates can be told apart at all
_DRIFT = 0.5  # climb where they cannot yet, and nothing speaks against it
_CLIFF = 4.0  # in units of the gain so far


@dataclass
class RateSearch:
    """What the search knows; the same on every rank.

    Attributes:
        climbing: whether it still searches; afterwards it holds.
        momentum: the smoothed evidence.
        seen: whether the evidence was ever clear.
        tracker: the losses.
        explosions: how often the run was rolled back.
        cliffs: how often replicas were left out.
        returns: what is known of the last explosions.
    """

    climbing: bool
    momentum: float
    seen: bool
    tracker: LossTracker
    explosions: int = 0
    cliffs: int = 0
    returns: Returns = field(default_factory=Returns)

    @classmethod
    def begin(cls, search: bool) -> "RateSearch":
        """Return a search at its start, or one that holds from the beginning."""
        return cls(search, 0.0, False, LossTracker())

    def fallen(self, losses: Sequence[float], slope: float, paired: bool = True) -> list[int]:
        """Return the replicas beyond the cliff; they are to be left out of the average.

        Args:
            losses: of each replica on the probe batch, or of its interval.
            slope: of the losses over the rates; positive where larger rates are worse.
            paired: whether the losses are of one common batch. If not, each has noise of its
                own, and of many some are far out by chance.
        """
        finite = [loss for loss in losses if math.isfinite(loss)]
        if not finite or self.tracker.count < 2 or slope <= 0:
            return []
        gain, noise = self.tracker.gain, NOISE * self.tracker.deviation
        if not self.climbing and gain <= noise:
            # Nothing gained, as where a trained model goes on: no height to fall from.
            return [r for r, loss in enumerate(losses) if not math.isfinite(loss)]
        if not paired:
            noise = range_of_noise(finite, self.tracker.deviation)
        allowed = max(noise, _CLIFF * gain)
        lowest = min(finite)
        return [r for r, loss in enumerate(losses) if loss - lowest > allowed]

    def update(
        self, clear: float, loss: float, lowest: float, cliff: bool, place: float
    ) -> "Move":
        """Take in one sync and say what becomes of the log rate.

        Args:
            clear: `evidence` that larger rates are better, -1 to 1.
            loss: the mean training loss of the interval.
            lowest: the lowest of the replicas' losses on one batch, or the median of those
                on their own.
            cliff: whether replicas were left out.
            place: the log rate, the mean of them if there are several.

        Returns:
            The move.
        """
        loss = loss if abs(loss) < LARGEST else math.inf
        self.tracker = self.returns.measure(self.tracker, loss, lowest)
        verdict = self.returns.judge(self.tracker, loss, lowest)
        exploded, wild = verdict == "return", loss > self.tracker.ceiling
        note = self._note(verdict, loss)
        if verdict == "new level":
            self.tracker = self.returns.put_on_trial(self.tracker, loss)
        self.momentum = _MEMORY * self.momentum + (1 - _MEMORY) * clear
        if math.isfinite(loss) and (self.tracker.settled or not exploded):
            self.tracker.update(loss)
        self.seen |= self.momentum > _SEEN
        turned = self.seen and (
            self.momentum <= _TURNED or (self.tracker.rising and self.momentum <= 0)
        )
        climbed = self.climbing
        stopped = climbed and (turned or cliff or exploded)
        self.climbing &= not stopped
        step = 0.0
        if self.climbing:
            least = _DRIFT if not self.seen and self.momentum > _TURNED else 0.0
            step = CLIMB_WIDTH * max(self.momentum, least)
        if cliff or exploded:
            self.momentum = min(self.momentum, 0.0)
        self.cliffs += cliff
        if exploded:
            self.explosions += 1
            self.momentum = 0.0
            self.tracker.smoothed = min(self.tracker.smoothed, self.tracker.best)
            step = -self.returns.lower(loss, place, climbed, wild)
        calm = verdict == "calm" and math.isfinite(loss) and not cliff
        settled = self.returns.settle(self.tracker, calm)
        restored = settled != "no"
        if restored:
            note = self._restored_note(settled)
            self.climbing |= self.returns.climbing
            step = self.returns.taken(place)
        return Move(step, stopped, exploded, restored, settled == "new level", note)

    def _note(self, verdict: Verdict, loss: float) -> str:
        """Say what has happened, in words for a log; nothing where all is well."""
        if verdict == "calm":
            return ""
        if verdict == "new level":
            return f"the loss is as high after the return ({loss:.3g}): a new level on trial"
        if not math.isfinite(loss):
            return "the loss is not finite"
        return (
            f"loss spike ({loss - self.tracker.best:.3g} above the best smoothed loss "
            f"{self.tracker.best:.3g}, gain {self.tracker.gain:.3g})"
        )

    def _restored_note(self, settled: Settled) -> str:
        if settled == "new level":
            return f"the loss stays at {self.tracker.smoothed:.3g}, a new level"
        return "all is calm since the return, and the rate is tried again"

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            **vars(self),
            "tracker": dict(vars(self.tracker)),
            "returns": self.returns.state_dict(),
        }

    @classmethod
    def parsed(cls, entries: Entries) -> "RateSearch":
        """Return the search that a state describes.

        Raises:
            ValueError: if it is damaged.
        """
        return cls(
            climbing=entries.boolean("climbing"),
            momentum=entries.number("momentum", -1.0, 1.0),
            seen=entries.boolean("seen"),
            tracker=LossTracker.parsed(entries.entries("tracker")),
            explosions=entries.integer("explosions"),
            cliffs=entries.integer("cliffs"),
            # States of older versions know nothing of new levels.
            returns=(
                Returns.parsed(entries.entries("returns"))
                if entries.has("returns")
                else Returns()
            ),
        )


@dataclass(frozen=True)
class Move:
    """What a sync does to the rate's scale.

    Attributes:
        step: added to the log rate; while holding only a fall after an explosion, or what
            such falls took.
        stopped: whether the climb has just ended.
        exploded: whether the averaged weights are to be restored.
        restored: whether the rate gets back what falls took.
        accepted: whether a new level of the loss was accepted.
        note: what has happened, in words for a log; nothing where all is well.
    """

    step: float
    stopped: bool
    exploded: bool
    restored: bool
    accepted: bool
    note: str

"""When old updates are noted, and when they are scored: the beat of the deferred evidence.

After the search the rate's scale follows one question: would a longer step have been better for
the loss some steps *later*? The gradient right after an update is a poor judge: what the update
leaves along steep directions is undone within a few steps, so it says "too long" even far below
the best rate. Some steps later it is about what has stayed.

So an update is the displacement of the weights over `steps` optimizer steps; for `delay` steps
nothing happens; then the gradients of `steps` more score it (`deferred_agreement`), and the
next one begins. Everything happens where the weights of all replicas are equal, as at a sync,
so each part lasts until the first sync at which it is long enough.

Pure arithmetic; equal on every rank.
"""

from dataclasses import dataclass
from typing import Any, Literal

from ...state import Entries

Phase = Literal["none", "moving", "waiting", "scoring"]
PHASES = ("none", "moving", "waiting", "scoring")


@dataclass
class Deferral:
    """Where the deferred evidence stands.

    Attributes:
        steps: optimizer steps of an update, and over which it is scored.
        delay: between the two.
        phase: `none` before the first update.
        since: the step at which the phase began.
    """

    steps: int
    delay: int
    phase: Phase = "none"
    since: int = 0

    def due(self, step: int) -> Phase | None:
        """Return the phase that begins at a sync; None where the one of now goes on.

        `moving` right after `scoring` means that the score is complete.
        """
        parts: dict[Phase, tuple[int, Phase]] = {
            "none": (0, "moving"),
            "moving": (self.steps, "waiting"),
            "waiting": (self.delay, "scoring"),
            "scoring": (self.steps, "moving"),
        }
        length, following = parts[self.phase]
        return following if step - self.since >= length else None

    def begin(self, phase: Phase, step: int) -> None:
        """Be in a phase from a step on."""
        self.phase, self.since = phase, step

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {"phase": self.phase, "since": self.since}

    def parsed(self, entries: Entries) -> "Deferral":
        """Return the one that a state describes."""
        phase = entries.text("phase", PHASES)
        fresh = Deferral(self.steps, self.delay, since=entries.integer("since"))
        fresh.phase = next(known for known in PHASES if known == phase)
        return fresh

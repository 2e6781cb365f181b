"""`Explorer` while no value moves: it only observes, is frozen, or explores nothing.

Replicas that observe are one: none of them knows what another value would do, and so there is
no slope. What is left to decide on is the losses, and each decision starts from the user's own
values, since none before it was followed.
"""

import logging

from ..ensemble.deferred_agreement import DeferredAgreement
from ..ensemble.gathered import Gathered
from ..ensemble.update_agreement import Agreement
from .averaged_weights import AveragedWeights
from .decision_line import decision_line, in_short
from .deferral import Deferral
from .held_schedule import risen_shares, shares_of
from .readings import ExplorerReadings


class ExplorerStill(ExplorerReadings):
    """A base of `Explorer`; see there for all attributes that it sets."""

    def _meet(self) -> None:
        """Do a sync at which no value moves; average only where gradients are not shared."""
        gathered = self._ensemble.gather(self._step, recoverable=self._shared_gradients)
        if self._apart:
            self._ensemble.average()
        else:
            self._ensemble.leave_apart()
        self._ensemble.meter.reset()
        if self._mode == "observe" and gathered.given:
            self._observe(gathered)

    def _observe(self, gathered: Gathered) -> None:
        """Decide, and only tell what would become of it."""
        self._schedule.read()
        exploration = self._exploration
        start, lifted = list(exploration.coordinates), exploration.lifted
        before = exploration.base_values()
        dimensions = exploration.dimensions
        shares = shares_of(dimensions, self._schedule.groups)
        decision = exploration.decide(gathered, shares)
        self._move_by_evidence()
        after = exploration.base_values()
        exploration.coordinates, exploration.lifted = start, lifted
        words = decision.note or decision_line(dimensions, decision, before, after)
        self._say(logging.INFO, f"would be: {words}{self._evidence}")
        self._last = {"would_be": {d.name: x for d, x in zip(dimensions, after, strict=True)}}

    def _move_by_evidence(self) -> None:
        """Move the rates' scale at a sync by what old updates say. Collective."""
        said, self._evidence = self._advance_evidence(), ""
        cosine = said.cosine if said is not None and said.known else None
        dimensions, least = self._exploration.dimensions, self._config.hold_from
        shares = risen_shares(dimensions, self._schedule.groups, least)
        steps = self._step - self._interval, self._step
        self._exploration.hold(cosine, steps, shares)
        if cosine is not None:
            better = "larger" if cosine > 0 else "smaller"
            self._evidence = (
                f"; cosine of old updates and new gradients {cosine:+.2g}: {better} is better"
            )

    def _begin_evidence(self) -> None:
        """Begin to follow old updates; the first one begins at `_advance_evidence`. Local."""
        self._deferral = Deferral(self._config.evidence_steps, self._config.evidence_delay)
        self._deferred = DeferredAgreement(self.optimizer, self._ensemble.replicas)

    def _advance_evidence(self) -> Agreement | None:
        """Go on after a step at which the replicas' weights are equal.

        Collective where a score is complete.

        Returns:
            The score; None where none is complete.
        """
        phase, said = self._deferral.due(self._step), None
        if phase is None:
            return None
        if self._deferral.phase == "scoring":
            said = self._deferred.read()
        begin = {
            "moving": self._deferred.mark,
            "waiting": self._deferred.displace,
            "scoring": self._deferred.score,
        }
        begin[phase]()
        self._deferral.begin(phase, self._step)
        return said

    def _forget_evidence(self) -> None:
        """Begin anew at the next sync: the weights were set to others. Local."""
        self._deferred.forget()
        self._deferral.begin("none", 0)

    def _freeze(self) -> None:
        """Put all replicas on the base values for good, right after a sync."""
        self._exploration.set_spread(False)
        self._averaged = AveragedWeights(self.optimizer, self._model, self._config)
        if self._watching:
            self._deferred.close()
            self._watching = False
        self._frozen = self._found = True
        values = zip(self._exploration.dimensions, self._values.base_values(), strict=True)
        words = f"frozen at {in_short([f'{d.name} {value:.3g}' for d, value in values])}"
        self._say(logging.INFO, words)

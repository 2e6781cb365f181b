"""`Explorer` while no value moves: it only observes, is frozen, or explores nothing.

Replicas that observe are one: none of them knows what another value would do, and so there is
no slope. What is left to decide on is the losses, and each decision starts from the user's own
values, since none before it was followed.
"""

import logging

from ..ensemble.gathered import Gathered
from .averaged_weights import AveragedWeights
from .decision_line import decision_line, in_short
from .held_schedule import risen_shares, shares_of, watched
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
        self._move_by_agreement()
        after = exploration.base_values()
        exploration.coordinates, exploration.lifted = start, lifted
        words = decision.note or decision_line(dimensions, decision, before, after)
        self._say(logging.INFO, f"would be: {words}{self._evidence}")
        self._last = {"would_be": {d.name: x for d, x in zip(dimensions, after, strict=True)}}

    def _move_by_agreement(self) -> None:
        """Move the rates' scale by the updates of the interval. Collective."""
        mean, self._evidence = self._agreement.read().mean, ""
        if mean.known:
            warmed = self._exploration.warmed
            steps = watched(self._step, self._interval, self._begun, warmed)
            dimensions, least = self._exploration.dimensions, self._config.hold_from
            shares = risen_shares(dimensions, self._schedule.groups, least)
            self._exploration.hold(mean.cosine, steps, shares)
            better = "larger" if mean.cosine > 0 else "smaller"
            self._evidence = (
                f"; cosine of updates and gradients {mean.cosine:+.2g}: {better} is better"
            )
        self._agreement.reset()

    def _freeze(self) -> None:
        """Put all replicas on the base values for good, right after a sync."""
        self._exploration.set_spread(False)
        self._averaged = AveragedWeights(self.optimizer, self._model, self._config)
        if self._watching:
            self._agreement.close()
            self._watching = False
        self._frozen = self._found = True
        values = zip(self._exploration.dimensions, self._values.base_values(), strict=True)
        words = f"frozen at {in_short([f'{d.name} {value:.3g}' for d, value in values])}"
        self._say(logging.INFO, words)

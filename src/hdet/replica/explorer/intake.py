"""What a step brings to `Explorer`: whether it counts, and a loss; and who is told of it."""

import math

from torch import Tensor

from .checks import refuse_other_groups
from .state import ExplorerState


class ExplorerIntake(ExplorerState):
    """A base of `Explorer`; see there for all attributes that it sets."""

    def _counts(self, loss: Tensor | float | None, skipped: bool | None) -> bool:
        """Take in a step's loss; return whether the step counts, or was skipped."""
        if self._superseded is not None:
            self._refuse_superseded()
        if self._only_accumulates(loss, skipped):
            return False
        ensemble, takes_part = self._ensemble, self._takes_part
        if takes_part and self._mode == "tune":
            if not ensemble.counts(skipped):
                self._skipped = True
                # Apart, one replica may skip alone, and all count the same steps.
                return self._trial.apart
        elif self._involved:
            ensemble.require_connection()
        unheard = self._frozen and not (self._apart or self._looks)
        if loss is not None and not unheard:
            ensemble.meter.observe(loss)
        ensemble.meter.keep()
        if self._scaled:
            refuse_other_groups(len(self._schedule.groups), self.optimizer)
        if takes_part and not self._introduced:
            self._introduce(self._step + 1)
        return True

    def _lacks_losses(self) -> bool:
        """Whether the probe alone can tell of a spike. Collective until a loss was given."""
        if self._ensemble.history.ever_given:
            return False
        self._ensemble.assemble("the losses", self._step)
        _, count = self._ensemble.meter.sums()
        return not any(row[0] for row in self._ensemble.gather_numbers([float(count)]))

    def _plateau_loss(self) -> float | None:
        """Return what ReduceLROnPlateau is to be told now: the interval's mean loss.

        Where replicas do not meet at syncs, before exploration or with nothing to explore,
        this is collective once per interval: each has losses of its own.
        """
        if self._synced:
            losses = self._ensemble.history.metrics()["losses"]
        elif not self._meeting and self._step % self._interval == 0:
            if self._ensemble.size > 1:
                self._ensemble.assemble("the losses", self._step)
            losses = self._ensemble.mean_losses()
            self._ensemble.meter.reset()
        else:
            return None
        finite = self._exploration.plausible(losses)
        return math.fsum(finite) / len(finite) if finite else None

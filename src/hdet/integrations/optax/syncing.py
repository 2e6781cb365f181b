"""A sync of `Explorer`: gather, decide, average, and go back if the loss has spiked.

Losses, probes and health of all replicas come to the host as plain numbers, and are decided on
by the same code as for torch. Then weights and optimizer state become the mean of the replicas.
"""

import logging
import math
import warnings
from typing import Any

import jax

from ...replica.ensemble.gathered import Gathered
from ...replica.explorer.decision import Decision
from ...replica.explorer.decision_line import decision_line
from .searching import Searching, with_seen
from .state import ExplorerState, trained, with_trained


class Syncing(Searching):
    """A base of `Explorer`; see there for all attributes that it sets."""

    _interval: int
    _nonfinite: int  # syncs in a row
    _last: dict[str, Any]
    _finite: Any
    _averaged: Any
    _begun_anew: Any

    def _sync(self, state: ExplorerState) -> ExplorerState:
        """Decide, average the replicas, and move the values."""
        exploration = self._exploration
        gathered = self._gather(state)
        self._refuse_nothing_finite(gathered)
        shares = [self._held.share]
        before = exploration.base_values()
        decision = exploration.decide(gathered, shares)
        if not gathered.all_broken:
            silent = {*gathered.broken, *decision.excluded}
            kept = [r not in silent for r in range(self.replicas.size)]
            mean = self._averaged(trained(state), self.replicas.numbers(kept))
            state = with_trained(state, mean)
        if decision.rollback:
            state = self._go_back(state)
            self._deferral.begin("none", 0)
        self._average.update(*self._first((state.params, state.extra)))
        state, evidence = self._hold(state, shares)
        self._report(gathered, decision, before, evidence)
        return self._controlled(self._new_interval(state))

    def _gather(self, state: ExplorerState) -> Gathered:
        """Return what the replicas have to tell."""
        probes, size = [math.nan] * self.replicas.size, self.replicas.size
        if self._probe.exists and self._exploration.differ:
            probes = self._probe.at_sync(state, self._average.scored)
        health = self._finite(trained(state)).tolist()
        losses = self._mean_losses(state)
        broken = [r for r in range(size) if not health[r]]
        for r in broken:
            losses[r] = probes[r] = math.nan
        masked = [r for r in range(size) if not math.isfinite(losses[r])]
        return Gathered(losses=losses, probes=probes, broken=broken, masked=masked)

    def _refuse_nothing_finite(self, gathered: Gathered) -> None:
        """Raise where there is nothing to decide on, or no rollback has helped."""
        lost = gathered.all_broken or not gathered.any_finite
        self._nonfinite = self._nonfinite + 1 if lost else 0
        if lost and self._average.params is None:
            raise RuntimeError(
                "`Explorer`: no replica's loss is finite, and there are no averaged weights "
                "yet to return to: lower the learning rate by a factor of 100 and begin again."
            )
        if self._nonfinite >= self._config.max_nonfinite_syncs:
            raise RuntimeError(
                f"`Explorer`: no replica was finite at {self._nonfinite} syncs in a row, each "
                f"time after a return to the averaged weights. Look for bad data, clip "
                f"gradients, or load the last checkpoint and lower the learning rate."
            )

    def _hold(self, state: ExplorerState, shares: list[float]) -> tuple[ExplorerState, str]:
        """Move the rate's scale by what old updates say, until it decays."""
        if not self._follows:
            return state, ""
        state, cosine = self._advance_evidence(state)
        steps = self._step - self._interval, self._step
        risen = self._held.risen(self._config.hold_from)
        self._exploration.hold(cosine, steps, shares if risen else [0.0])
        evidence = ""
        if cosine is not None:
            better = "larger" if cosine > 0 else "smaller"
            words = f"cosine of old updates and new gradients {cosine:+.2g}"
            evidence = f"; {words}: {better} is better"
        if shares[0] < self._config.hold_share:
            self._follows, state = False, with_seen(state, previous=None)
        return state, evidence

    def _go_back(self, state: ExplorerState) -> ExplorerState:
        """Go back to the averaged weights, with new moments."""
        assert self._average.params is not None, "no loss spikes before there is a way back"
        params = jax.tree.map(
            lambda average, own: average.astype(own.dtype), self._average.params, state.params
        )
        fresh = self.replicas.spread(self._optimizer.init(params))
        opt_state = self._begun_anew(state.opt_state, fresh)
        extra = self._put_back(state.extra, self._average.extra)
        return with_trained(state, (self.replicas.spread(params), opt_state, extra))

    def _report(
        self, gathered: Gathered, decision: Decision, before: list[float], evidence: str
    ) -> None:
        """Log what a sync has decided; keep the rest for `metrics`."""
        dimensions, exploration = self._exploration.dimensions, self._exploration
        if decision.note:
            self._say(logging.WARNING, decision.note)
        else:
            words = decision_line(dimensions, decision, before, exploration.base_values())
            self._say(logging.INFO, words + evidence)
        if decision.new_level and exploration.guard.recovery.new_levels == 1:
            warnings.warn(
                f"`Explorer`: {decision.note}, and training goes on from there. If the data or "
                f"the loss have changed, this is as it should be; if not, load a checkpoint "
                f"from before.",
                stacklevel=5,
            )
        self._last = {
            "losses": gathered.losses,
            "probes": gathered.probes,
            "masked": gathered.masked,
            "excluded": decision.excluded,
            "slope": decision.slopes.slope[0],
            "t": decision.slopes.t[0],
            "confidence": decision.confidence[0],
        }

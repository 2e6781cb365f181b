"""What `Explorer` tells of itself: metrics, rates, and what a sync has decided.

Everything here reads, and is local; only `_report` keeps something, for the others to read.
"""

import logging
import warnings
from typing import Any

from torch import Tensor

from ..ensemble.gathered import Gathered
from .checks import confounded_message, new_level_message
from .exploration import Decision
from .state import ExplorerState

_log = logging.getLogger("hdet")


class ExplorerReadings(ExplorerState):
    """A base of `Explorer`; see there for all attributes that it sets."""

    def metrics(self) -> dict[str, Any]:
        """Return what is explored and what the last sync found. Local, on any rank.

        Returns:
            `step`, `syncs`; `base_lr` and `replica_lr` per parameter group (and replica), in
            effect now; `values` and `replica_values` by the dimension's name, a learning
            rate's being the factor on its schedule; `phase` ("search" or "track"); how many
            `rollbacks`, `exclusions`, `new_levels`; and after the first sync `losses`,
            `probes`, `divergence` per replica, `slope`, `t` and `confidence` by name,
            `confounded`, `excluded`, `masked`, `masked_total`, `sync_ms`, `probe_ms`.
        """
        exploration, size = self._exploration, self._ensemble.replicas.size
        names = [d.name for d in exploration.dimensions]
        if self._scaled:
            base_rates, rates = self._values.base_rates(), self._values.rates()
            bases, rows = self._values.base_values(), self._values.values()
        else:
            base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
            rates = [[rate] * size for rate in base_rates]
            bases = [1.0 if d.is_rate else d.read() for d in exploration.dimensions]
            rows = [[value] * size for value in bases]
        return {
            "step": self._step,
            "base_lr": base_rates,
            "replica_lr": rates,
            "values": dict(zip(names, bases, strict=True)),
            "replica_values": dict(zip(names, rows, strict=True)),
            "phase": exploration.rates.phase if self._active else "track",
            "rollbacks": exploration.rates.rollbacks,
            "exclusions": exploration.rates.exclusions,
            "new_levels": exploration.rates.recovery.new_levels,
            **self._ensemble.history.metrics(),
            **self._last,
        }

    def get_last_lr(self) -> list[float | Tensor]:
        """Return this replica's learning rates, one for each parameter group. Local."""
        if not self._scaled:
            return self._schedule.last_lr()
        return list(self._values.own_rates())

    def _report(self, gathered: Gathered, decision: Decision, milliseconds: float) -> None:
        """Log what a sync did to the run as a whole, once; keep the rest for `metrics`."""
        if decision.note and self._ensemble.replicas.rank == 0:
            _log.warning("step %d: %s", self._step, decision.note)
        if decision.new_level and self._exploration.rates.recovery.new_levels == 1:
            warnings.warn(new_level_message(decision.note), stacklevel=4)
        names = [d.name for d in self._exploration.dimensions]
        slopes = decision.slopes
        if slopes.confounded and self._exploration.syncs == 1:
            replicas = self._ensemble.replicas.size
            warnings.warn(confounded_message(len(names), replicas), stacklevel=4)
        self._last = {
            "probes": gathered.probes,
            "excluded": decision.excluded,
            "slope": dict(zip(names, slopes.slope, strict=True)),
            "t": dict(zip(names, slopes.t, strict=True)),
            "confidence": dict(zip(names, decision.confidence, strict=True)),
            "confounded": slopes.confounded,
            "probe_ms": milliseconds,
        }

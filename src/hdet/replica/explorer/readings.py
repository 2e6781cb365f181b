"""What `Explorer` tells of itself: metrics, rates, and what a sync has decided.

Everything here is local. `_report` keeps what a sync has found, and the others read it.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from ..ensemble.gathered import Gathered
from .checks import confounded_message, new_level_message
from .decision import Decision
from .decision_line import decision_line, in_short
from .flat_metrics import flat_metrics
from .run_log import RunLog
from .state import NAME, ExplorerState

_log = logging.getLogger("hdet")


class ExplorerReadings(ExplorerState):
    """A base of `Explorer`; see there for all attributes that it sets."""

    def metrics(self, flat: bool = False) -> dict[str, Any]:
        """Return what is explored and what the last sync found. Local, on any rank.

        Everything is a plain number, text, or a list or dictionary of these, and the same on
        every rank, but for the times. Always there:

        - `step`, `syncs`: optimizer steps and syncs so far;
        - `base_lr`, `replica_lr`: learning rates in effect, per parameter group, and per group
          and replica;
        - `values`, `replica_values`: by the name of what is explored, the base value, and each
          replica's; a learning rate's is the factor on its schedule;
        - `phase`: "climb", "settle", "trial" or "warmup" in the search, then "track"; or
          "frozen", "observe";
        - `rollbacks`, `exclusions`, `new_levels`: how often all replicas went back, one was
          left out as diverged, and the loss was accepted at a new level;
        - `decision`: the last one, in words.

        After the first sync:

        - `losses`, `probes`: per replica, the mean loss of the interval and that on the probe;
        - `divergence`: per replica, its distance from the mean before averaging, relative;
        - `slope`, `t`: by name, how the loss changes from the base value to the outermost
          replica's, and that over its standard error;
        - `confidence`: by name, how sure it is that a larger value is better, -1 to 1;
        - `confounded`: whether there are too few replicas to tell all that is explored apart;
        - `excluded`: replicas left out as diverged;
        - `masked`, `masked_total`: replicas left out because they were not finite; how often
          each was;
        - `sync_ms`, `probe_ms`: milliseconds of the last sync and probe on this rank;
        - `would_be`: by name, what the sync would have set; when observing only.

        Args:
            flat: whether to return finite floats alone, with names like `hdet/lr/base` and
                `hdet/lr/replica/3`, as trackers take them.

        Returns:
            The dictionary.
        """
        exploration, size = self._exploration, self._ensemble.replicas.size
        names = [d.name for d in exploration.dimensions]
        if self._scaled:
            base_rates, rates = self._values.base_rates(), self._values.rates()
            # A warm-up of the search is no part of the value that it leads to.
            base_rates = [
                own[0] if min(own) == max(own) else base
                for base, own in zip(base_rates, rates, strict=True)
            ]
            bases, rows = self._values.base_values(), self._values.values()
        else:
            base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
            rates = [[rate] * size for rate in base_rates]
            bases = [1.0 if d.is_rate else d.read() for d in exploration.dimensions]
            rows = [[value] * size for value in bases]
        found = {
            "step": self._step,
            "base_lr": base_rates,
            "replica_lr": rates,
            "values": dict(zip(names, bases, strict=True)),
            "replica_values": dict(zip(names, rows, strict=True)),
            "phase": self._phase,
            "rollbacks": exploration.guard.rollbacks,
            "exclusions": exploration.guard.exclusions,
            "new_levels": exploration.guard.recovery.new_levels,
            "decision": self._last_line,
            **self._ensemble.history.metrics(),
            **self._last,
        }
        return flat_metrics(found) if flat else found

    def get_last_lr(self) -> list[float | Tensor]:
        """Return this replica's learning rates, one for each parameter group. Local."""
        if not self._scaled:
            return self._schedule.last_lr()
        return list(self._values.own_rates())

    def found(self) -> list[float]:
        """Return the rates to write into a plain run, one for each parameter group. Local.

        They stand in place of the user's own: of `max_lr` where the schedule has one, else of
        the optimizer's `lr`. A plain run of the same schedule then has the rates that all
        replicas train around here. When observing it is what the last sync would have set.
        """
        return self._found_from(self._schedule.written_rates)

    def _found_from(self, rates: list[float]) -> list[float]:
        """Return what has been found in place of these rates."""
        values, would = self.metrics()["values"], self._last.get("would_be", {})
        for dimension in self._exploration.dimensions:
            if dimension.group is not None:
                rates[dimension.group] *= would.get(dimension.name, values[dimension.name])
        return rates

    def __repr__(self) -> str:
        """Return where it stands, the values with the rates, and the last decision."""
        told = self.metrics()
        values = in_short([f"{name} {value:.3g}" for name, value in told["values"].items()])
        rates = in_short([f"{rate:.3g}" for rate in told["base_lr"]])
        phase = "hold" if told["phase"] == "track" and self._exploration.held else told["phase"]
        return (
            f"{NAME}: {phase}; step {self._step}, syncs {told['syncs']}, "
            f"replicas {self._ensemble.size}\n"
            f"  base values: {values or 'none explored'}; learning rates: {rates}\n"
            f"  last decision: {self._last_line or 'none yet'}"
        )

    @property
    def _phase(self) -> str:
        if self._mode == "observe":
            return "observe"
        if self._frozen:
            return "frozen"
        search = self._exploration.search if self._active else None
        return "track" if search is None else search.phase

    def _report(
        self,
        gathered: Gathered,
        decision: Decision,
        before: list[float],
        milliseconds: float,
    ) -> None:
        """Log what a sync has decided, once; keep the rest for `metrics`."""
        if decision.note:
            self._say(logging.WARNING, decision.note)
        else:
            words = decision_line(
                self._exploration.dimensions, decision, before, self._values.base_values()
            )
            self._say(logging.INFO, words + self._evidence)
        if decision.new_level and self._exploration.guard.recovery.new_levels == 1:
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

    def _tell(self) -> None:
        """Let the record and all listeners know where it stands. Local."""
        if self._log is not None and self._log.writes:
            self._log.add({**self.metrics(), "found": self.found(), **self._searched()})
        for listener in self._listeners:
            listener(self)

    def _searched(self) -> dict[str, Any]:
        """Return what a step of the search has seen, for the record. Local.

        In the climb each step waits for the device anyway, so this replica's loss can be read.
        """
        seen: dict[str, Any] = {}
        if self._tried is not None:
            seen["tried"], self._tried = self._tried, None
        if self._phase == "climb":
            total, count = self._ensemble.meter.sums()
            before, counted = self._climbed
            if count > counted:
                seen["loss"] = (total - before) / (count - counted)
            self._climbed = total, count
        return seen

    def _new_log(self, path: str | Path) -> RunLog:
        header = {
            "replicas": self._ensemble.size,
            "explored": [d.name for d in self._exploration.dimensions],
            "written": self._schedule.written_rates,
            "sync_every": self._interval,
        }
        return RunLog(path, header, writes=self._ensemble.replicas.is_first)

    def _say(self, level: int, words: str) -> None:
        """Log a line on the first process, and keep it for `repr`."""
        self._last_line = f"step {self._step}: {words}"
        if self._ensemble.replicas.is_first:
            _log.log(level, "step %d: %s", self._step, words)

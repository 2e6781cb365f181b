"""What `Explorer` tells of itself, in plain numbers that the host has anyway."""

from typing import Any

from ...replica.explorer.exploration import Exploration
from ...replica.explorer.held_schedule import HeldSchedule
from .replicas import Replicas
from .schedule import Rates


class Readings:
    """A base of `Explorer`; see there for all attributes that it sets."""

    replicas: Replicas
    _exploration: Exploration
    _rates: Rates
    _held: HeldSchedule
    _peak: float
    _step: int
    _last: dict[str, Any]
    _last_line: str

    def metrics(self) -> dict[str, Any]:
        """Return what is known, in plain numbers.

        Returns:
            `step`, `syncs`, `phase` ("climb", "settle", "trial", "warmup" or "track"),
            `base_lr` and `replica_lr` of the next step, `factor` (on the rates given),
            `rollbacks`, `exclusions`, `new_levels`; and after the first sync `losses`,
            `probes`, `masked`, `excluded`, `slope`, `t` and `confidence`.
        """
        exploration, search = self._exploration, self._exploration.search
        base, factors = exploration.base_values()[0], exploration.values()[0]
        rate = self._held.peak or self._rates.known(self._step)
        return {
            "step": self._step,
            "syncs": exploration.syncs,
            "phase": "track" if search is None else search.phase,
            "factor": base,
            # A warm-up of the search is no part of the factor that it leads to.
            "base_lr": rate * (factors[0] if min(factors) == max(factors) else base),
            "replica_lr": [rate * factor for factor in factors],
            "rollbacks": exploration.guard.rollbacks,
            "exclusions": exploration.guard.exclusions,
            "new_levels": exploration.guard.recovery.new_levels,
            **self._last,
        }

    def found(self) -> float:
        """Return the learning rate to write into a plain run: its schedule's largest."""
        return self._exploration.base_values()[0] * self._peak

    def __repr__(self) -> str:
        """Return where it stands, and the last decision."""
        told = self.metrics()
        return (
            f"Explorer: {told['phase']}; step {self._step}, syncs {told['syncs']}, "
            f"replicas {self.replicas.size}\n"
            f"  lr factor {told['factor']:.3g}; learning rate {told['base_lr']:.3g}\n"
            f"  last decision: {self._last_line or 'none yet'}"
        )

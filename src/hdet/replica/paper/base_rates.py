"""The base learning rates once the controller holds them: its state, and one act of it.

Source: HDET (arXiv 2604.24708), equation (4), for each parameter group on its own.
"""

from collections.abc import Sequence
from typing import Any

from ...state import Entries
from ..ensemble.group_values import LARGEST_RATE
from .controller import Controller, softmax_weights


class BaseRates:
    """eta_bar and v of every parameter group; equal on every rank.

    Args:
        groups: number of parameter groups.

    Attributes:
        values: eta_bar per group; None while the schedule still sets them.
        velocities: v per group.
        acted_at: index of the sync at which the controller last acted.
        last_act: what it did then, for metrics.
    """

    def __init__(self, groups: int) -> None:
        self.values: list[float] | None = None
        self.velocities = [0.0] * groups
        self.acted_at = 0
        self.last_act: dict[str, Any] = {}

    def act(
        self,
        controller: Controller,
        losses: Sequence[float],
        replica_rates: Sequence[Sequence[float]],
        sync: int,
    ) -> None:
        """Move the base rate of every group, equation (4).

        Args:
            controller: the rule.
            losses: L_r of every replica; not finite for one that has no say.
            replica_rates: eta_r per group and replica, of the interval that has ended.
            sync: index of this sync.
        """
        weights = softmax_weights(losses, controller.loss_scale)
        updates = [
            controller.update(velocity, rates, weights)
            for velocity, rates in zip(self.velocities, replica_rates, strict=True)
        ]
        self.velocities = [update.velocity for update in updates]
        self.values = [update.base for update in updates]
        self.acted_at = sync
        self.last_act = {
            "weights": weights,
            "delta": [update.delta for update in updates],
            "floored": [update.floored for update in updates],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "base_lrs": None if self.values is None else list(self.values),
            "velocities": list(self.velocities),
            "acted_at": self.acted_at,
        }

    def parsed(self, entries: Entries) -> "BaseRates":
        """Return rates that stand where a state says; nothing here changes.

        Raises:
            ValueError: if the state is damaged, or of another number of groups.
        """
        groups = len(self.velocities)
        fresh = BaseRates(groups)
        fresh.values = entries.optional(
            "base_lrs", entries.numbers, length=groups, above=0.0, high=LARGEST_RATE
        )
        fresh.velocities = entries.numbers("velocities", groups, -LARGEST_RATE, LARGEST_RATE)
        fresh.acted_at = entries.integer("acted_at")
        return fresh

    def assign(self, parsed: "BaseRates") -> None:
        """Go on from what `parsed` returned."""
        vars(self).update(vars(parsed))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; one that does not fit is refused, and changes nothing."""
        self.assign(self.parsed(Entries(state, "OneCycleAutoLR")))

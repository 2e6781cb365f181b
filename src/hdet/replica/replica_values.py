"""The values of every replica: the schedule, times what has been found, times the spread.

    rate of replica r, group g    = factor_g * rho_g,r * held schedule_g(t)

Source: HDET (arXiv 2604.24708), equations (1) and (7).
"""

from torch.optim import Optimizer

from .exploration import Exploration
from .group_values import set_rates
from .wrapped_schedule import WrappedSchedule


class ReplicaValues:
    """Reads and sets what the replicas train with. Local.

    Args:
        optimizer: whose rates are set.
        exploration: where the values stand.
        schedule: what the rates are a multiple of.
    """

    def __init__(
        self, optimizer: Optimizer, exploration: Exploration, schedule: WrappedSchedule
    ) -> None:
        self._optimizer = optimizer
        self._exploration = exploration
        self._schedule = schedule

    def base_rates(self) -> list[float]:
        """Return the base rate of each parameter group."""
        rates = [held.value for held in self._schedule.groups]
        pairs = zip(self._exploration.dimensions, self._exploration.base_values(), strict=True)
        for dimension, base in pairs:
            if dimension.group is not None:
                rates[dimension.group] *= base
        return rates

    def rates(self) -> list[list[float]]:
        """Return the rate of each parameter group and replica."""
        rows = [[held.value] * self._exploration.replicas for held in self._schedule.groups]
        pairs = zip(self._exploration.dimensions, self._exploration.values(), strict=True)
        for dimension, row in pairs:
            if dimension.group is not None:
                base = self._schedule.groups[dimension.group].value
                rows[dimension.group] = [base * factor for factor in row]
        return rows

    def apply(self, replica: int | None) -> None:
        """Set a replica's values; the base values for None."""
        exploration = self._exploration
        if replica is None:
            rates, values = self.base_rates(), exploration.base_values()
        else:
            rates = [row[replica] for row in self.rates()]
            values = [row[replica] for row in exploration.values()]
        set_rates(self._optimizer, rates)
        for dimension, value in zip(exploration.dimensions, values, strict=True):
            if not dimension.is_rate:
                dimension.write(value)

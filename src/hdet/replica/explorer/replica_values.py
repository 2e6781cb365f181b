"""The values of every replica: what others make of them, times what has been found and spread.

    rate of replica r, group g    = factor_g * rho_g,r * held schedule_g(t)
    anything else, on its scale   = coordinate + width * z_r
                                    + (what others left - where it began)

Others may change what is explored: the wrapped scheduler, another one beside it, the user's
loop. The wrapped scheduler finds the unscaled value, as if no replica were there. Whatever else
has changed since our last write is taken over as a factor (on a linear scale as a shift), as
torch's chainable schedulers compose. Values that no request names are never touched.

Every replica takes over what it finds, and divides by its own factor, so that the last bits may
differ. At a sync the replicas agree on one value (`agree`). Where they differ by more, somebody
has *set* the value: it is the mean over the replicas then, so that the base value is what was
set.

Source: HDET (arXiv 2604.24708), equations (1) and (7).
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from ...state import Entries
from .cells import DimensionCell, RateCell
from .dimensions import Dimension
from .exploration import Exploration
from .held_schedule import HeldSchedule

# Beyond what rounding makes of one factor in many steps; far below any spread.
_ROUNDING = 1e-4


class ReplicaValues:
    """Reads and sets what the replicas train with. Local.

    Args:
        optimizer: whose values are set.
        exploration: where the values stand.
        groups: the schedule of each parameter group, which the rates are a multiple of.

    Attributes:
        dimensions: what is explored.
        replica: whose values are in place; None for the base values.
        taken_over: whether others have changed anything yet.
    """

    def __init__(
        self, optimizer: Optimizer, exploration: Exploration, groups: list[HeldSchedule]
    ) -> None:
        self._optimizer = optimizer
        self._exploration = exploration
        self._groups = groups
        self.dimensions = exploration.dimensions
        self._others = [d.value for d in self.dimensions]  # unused for rates
        self._cells: dict[int, DimensionCell] = {}
        self._rates: dict[int, RateCell] = {}
        for j, dimension in enumerate(self.dimensions):
            if dimension.group is None:
                self._cells[j] = DimensionCell(dimension)
            else:
                self._rates[j] = RateCell(dimension.group, groups[dimension.group])
        self.replica: int | None = None
        self.taken_over = False
        self._touched: set[int] = set()  # what others have changed since `agree`
        # For each dimension, how often in a row the replicas have not agreed.
        self._disagreed = [0] * len(self.dimensions)

    def base_values(self) -> list[float]:
        """Return the base value of each dimension; of a rate, the factor on its schedule."""
        return self._moved(self._exploration.base_values(self._shifts()))

    def values(self) -> list[list[float]]:
        """Return the value of each dimension and replica, likewise."""
        rows = self._exploration.values(self._shifts())
        columns = [self._moved(column) for column in zip(*rows, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)]

    def base_rates(self) -> list[float]:
        """Return the base rate of each parameter group."""
        rates, base = self.read_unexplored(), self.base_values()
        for j, cell in self._rates.items():
            rates[cell.index] = cell.held.value * base[j]
        return rates

    def rates(self) -> list[list[float]]:
        """Return the rate of each parameter group and replica."""
        rows = [[rate] * self._exploration.replicas for rate in self.read_unexplored()]
        values = self.values()
        for j, cell in self._rates.items():
            base = cell.held.value
            rows[cell.index] = [base * factor for factor in values[j]]
        return rows

    def own_rates(self) -> list[float]:
        """Return this replica's rate of each parameter group."""
        rates = self.read_unexplored()
        for cell in self._rates.values():
            rates[cell.index] = cell.held.value * cell.factor
        return rates

    def read_unexplored(self) -> list[float]:
        """Bring the groups that are not explored up to date; return every group's schedule."""
        explored = {cell.index for cell in self._rates.values()}
        for index, held in enumerate(self._groups):
            if index not in explored:
                held.advance(float(self._optimizer.param_groups[index]["lr"]))
        return [held.now for held in self._groups]

    def apply(self, replica: int | None) -> None:
        """Set a replica's values; the base values for None.

        To be called whenever `exploration` has moved; `follow` does with what this computes.
        """
        column = (
            self.base_values() if replica is None else [row[replica] for row in self.values()]
        )
        self.replica = replica
        for j, cell in self._cells.items():
            cell.own = column[j]
            cell.write(column[j])
        for j, cell in self._rates.items():
            if replica is not None:
                cell.factor = column[j]
            group = self._optimizer.param_groups[cell.index]
            cell.write(group, column[j] * cell.held.value)

    # --- what others change, at every step

    def take_over(self) -> None:
        """Take over what others have changed since the values were set."""
        for j, cell in self._cells.items():
            self._found(j, cell.written, cell.others_wrote())
        for j, cell in self._rates.items():
            group = self._optimizer.param_groups[cell.index]
            self._found(j, cell.written, cell.others_wrote(group))

    def lend(self) -> None:
        """Take over what others have changed, and put the unscaled values in place for them."""
        for j, cell in self._cells.items():
            self._found(j, cell.written, cell.others_wrote())
            cell.write(self._others[j])
        groups = self._optimizer.param_groups
        for j, cell in self._rates.items():
            group = groups[cell.index]
            if group["lr"] is cell.written:  # a number that nobody has changed
                group["lr"] = cell.held.now
            else:
                self._found(j, cell.written, cell.others_wrote(group))
                cell.lend(group)

    def follow(self) -> None:
        """Take over what others have made of what `lend` gave; set this replica's values."""
        groups = self._optimizer.param_groups
        for cell in self._rates.values():
            group, held = groups[cell.index], cell.held
            now = group["lr"]
            if cell.tensor is not None or type(now) is not float:
                cell.take_back(group)
            else:
                held.now = now
                if now > held.highest:
                    held.highest = now
                group["lr"] = cell.written = cell.factor * held.value
        moved = False
        for j, cell in self._cells.items():
            found = cell.read()
            moved |= found != self._others[j]
            self._others[j] = found
        if moved and self.replica is not None:
            values = self.values()
            for j, cell in self._cells.items():
                cell.own = values[j][self.replica]
        for cell in self._cells.values():
            cell.write(cell.own)

    def _found(self, j: int, written: float, found: float | None) -> None:
        """Take over what others have put in place of what was written; None for nothing."""
        if found is not None:
            self.taken_over = True
            self._touched.add(j)
            self._set(j, _without(self.dimensions[j], found, written, self._unscaled(j)))

    def unscaled(self) -> list[float]:
        """Return, for each dimension, its value without what was found and spread."""
        return [self._unscaled(j) for j in range(len(self.dimensions))]

    @property
    def touched_groups(self) -> set[int]:
        """The parameter groups whose rates others have changed since the last sync."""
        return {self._rates[j].index for j in self._touched if j in self._rates}

    def shared(self) -> list[float]:
        """Return what `agree` takes of this replica: `unscaled`, and the highest rates."""
        return [*self.unscaled(), *(held.highest for held in self._groups)]

    def agree(self, rows: Sequence[Sequence[float]]) -> list[str]:
        """Make the unscaled values the same on every replica. `apply` has to follow.

        Args:
            rows: `shared` of every replica.

        Returns:
            The names of what others go on setting, over the replicas' own values.
        """
        columns = [list(column) for column in zip(*rows, strict=True)]
        for held, column in zip(self._groups, columns[len(self.dimensions) :], strict=True):
            held.highest = column[0]
        overwritten = []
        for j, (dimension, column) in enumerate(zip(self.dimensions, columns, strict=False)):
            low, high = min(column), max(column)
            if high - low <= _ROUNDING * max(abs(low), abs(high)):
                self._set(j, column[0])
                self._disagreed[j] = 0
                continue
            logarithmic = dimension.scale == "log" and low > 0
            mean = statistics.geometric_mean if logarithmic else statistics.fmean
            self._set(j, mean(column))
            self._disagreed[j] += 1
            if self._disagreed[j] > 1:
                overwritten.append(dimension.name)
        self._touched.clear()
        return overwritten

    def state_dict(self) -> dict[str, Any]:
        """Return what others have made of everything but the rates, by name."""
        pairs = zip(self.dimensions, self._others, strict=True)
        return {
            "taken_over": self.taken_over,
            "values": {d.name: other for d, other in pairs if not d.is_rate},
        }

    def parsed(self, entries: Entries | None) -> tuple[bool, list[float]]:
        """Return what `assign` takes; the first values for the states that have none.

        Raises:
            ValueError: if an entry is missing or no number.
        """
        if entries is None:
            return False, [d.value for d in self.dimensions]
        values = entries.entries("values")
        limits = {"log": (0.0, math.inf), "linear": (-math.inf, math.inf)}
        others = [
            d.value if d.is_rate else values.number(d.name, *limits.get(d.scale, d.bounds))
            for d in self.dimensions
        ]
        return entries.boolean("taken_over"), others

    def assign(self, parsed: tuple[bool, list[float]], groups: list[HeldSchedule]) -> None:
        """Go on from what `parsed` returned. `apply` has to follow."""
        self.taken_over, self._others = parsed
        self._groups = groups
        for cell in self._rates.values():
            cell.held = groups[cell.index]
        self._disagreed = [0] * len(self.dimensions)
        self._touched.clear()

    def _unscaled(self, j: int) -> float:
        return self._rates[j].held.now if j in self._rates else self._others[j]

    def _set(self, j: int, value: float) -> None:
        if j in self._rates:
            self._rates[j].held.advance(value)
        else:
            self._others[j] = value

    def _shifts(self) -> list[float]:
        """Return how far others have moved each dimension, on its scale; 0 for rates."""
        return [
            0.0 if d.is_rate or other == d.value else _on_scale(d, other) - d.to_scale(d.value)
            for d, other in zip(self.dimensions, self._others, strict=True)
        ]

    def _moved(self, column: Sequence[float]) -> list[float]:
        """Return values with 0 where others have made them 0, which no logarithm shows."""
        return [
            0.0 if d.scale == "log" and not d.is_rate and other <= 0 else value
            for d, other, value in zip(self.dimensions, self._others, column, strict=True)
        ]


def _on_scale(dimension: Dimension, value: float) -> float:
    """Return where a value stands, at most as far out as the scale goes."""
    low, high = dimension.bounds
    if dimension.scale == "logit":
        inside = 1e-9 * (high - low)
        value = min(max(value, low + inside), high - inside)
    elif dimension.scale == "log":
        value = max(value, 1e-300)
    return dimension.to_scale(value)


def _without(dimension: Dimension, found: float, written: float, unscaled: float) -> float:
    """Return what others have made of the unscaled value, where we wrote and they found."""
    if dimension.scale == "log":
        return unscaled * (found / written) if written > 0 and unscaled > 0 else found
    if dimension.scale == "linear":
        return unscaled + (found - written)
    moved = _on_scale(dimension, found) - _on_scale(dimension, written)
    low, high = dimension.bounds
    share = 0.5 * (1 + math.tanh((_on_scale(dimension, unscaled) + moved) / 2))
    return low + (high - low) * share

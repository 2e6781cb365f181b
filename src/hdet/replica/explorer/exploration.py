"""Where every hyperparameter stands, who plays which value, and how a sync moves them.

The pure part of `Explorer`: it maps gathered losses to new values and never sees a process
group or a tensor. At each sync

    slopes of the losses over the offsets of all hyperparameters      (attribution)
    replicas beyond the cliff are left out of the average             (rate_search)
    rates, while climbing:  place += the climb's step, all together
    rates, while holding:   place += gain * trust * evidence, each on its own
    anything else:          place += gain * evidence
    new permutations

`place` is a value on its own scale, such as the logarithm of the factor on a learning rate;
`trust` falls from 1 to 0 as the schedule decays.

Source: HDET (arXiv 2604.24708), equations (1) and (7).
"""

import copy
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...state import Entries
from ..ensemble.spread import permutation
from .attribution import Slopes, evidence, slopes, without_outliers
from .dimensions import Dimension
from .loss_tracker import LARGEST
from .rate_search import CLIMB_WIDTH, HOLD_GAIN, START, Move, RateSearch

# Of downward moves of a rate without a probe: what measured best in the method's notes.
_DAMPED = 0.3


@dataclass(frozen=True)
class Reading:
    """What the losses of one sync say.

    Attributes:
        losses: of each replica; not finite where a replica is to be ignored.
        slopes: one for each dimension; while climbing all rates have the same.
        fallen: replicas to be left out of the average.
    """

    losses: list[float]
    slopes: Slopes
    fallen: list[int]

    @property
    def evidence(self) -> list[float]:
        """For each dimension, how clearly a larger value is better, -1 to 1."""
        return [evidence(t) for t in self.slopes.t]


class Exploration:
    """The state of all hyperparameters that are explored; equal on every rank.

    Args:
        dimensions: what is explored, with unique names.
        replicas: N >= 2.
        seed: of the permutations.
        search: whether learning rates start below the schedule and climb.
        paired: whether the losses will be those of a common probe batch. Without, they are
            noisier, and always asking for smaller rates: downward moves are damped.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        replicas: int,
        seed: int,
        search: bool,
        paired: bool,
    ) -> None:
        self.dimensions = list(dimensions)
        self.replicas = replicas
        self.syncs = 0
        self.rates = RateSearch.begin(search and any(d.is_rate for d in dimensions))
        self._seed = seed
        self._paired = paired
        below = math.log(START) if self.rates.climbing else 0.0
        self.places = [
            d.clamp(d.to_scale(d.value) + (below if d.is_rate else 0.0)) for d in dimensions
        ]

    def offsets(self) -> list[list[float]]:
        """Return, for each dimension and replica, where it stands between -1 and 1."""
        n = self.replicas
        grid = [2 * r / (n - 1) - 1 if n > 1 else 0.0 for r in range(n)]
        rows = []
        for dimension in self.dimensions:
            # Climbing, all rates move as one, so that N points measure one direction.
            joint = dimension.is_rate and self.rates.climbing
            name = "lr" if joint else dimension.name
            order = permutation(n, self._seed, self.syncs, name)
            rows.append([grid[place] for place in order])
        return rows

    def values(self, shifts: Sequence[float] | None = None) -> list[list[float]]:
        """Return, for each dimension and replica, the value in effect until the next sync.

        Args:
            shifts: how far others have moved each dimension, on its scale; default not at all.
        """
        places = self._shifted(shifts)
        return [
            [d.from_scale(d.clamp(place) + self._width(d) * z) for z in row]
            for d, place, row in zip(self.dimensions, places, self.offsets(), strict=True)
        ]

    def base_values(self, shifts: Sequence[float] | None = None) -> list[float]:
        """Return the base value of each dimension; `shifts` as for `values`."""
        places = self._shifted(shifts)
        return [d.from_scale(p) for d, p in zip(self.dimensions, places, strict=True)]

    def _shifted(self, shifts: Sequence[float] | None) -> list[float]:
        if shifts is None:
            return self.places
        return [place + shift for place, shift in zip(self.places, shifts, strict=True)]

    def factors_in_words(self) -> str:
        """Return the factors on the learning rates, or their range, for a log."""
        pairs = zip(self.dimensions, self.base_values(), strict=True)
        factors = [value for d, value in pairs if d.is_rate] or [1.0]
        low, high = f"{min(factors):.3g}", f"{max(factors):.3g}"
        return low if low == high else f"{low} to {high}"

    def read(self, losses: Sequence[float]) -> Reading:
        """Return what the replicas' losses say; nothing changes.

        Args:
            losses: on the common probe batch, or the interval's own. NaN for a replica that
                gave none or is broken.
        """
        losses = [loss if abs(loss) < LARGEST else math.inf for loss in losses]
        finite = [loss for loss in losses if math.isfinite(loss)]
        for r in self.rates.tracker.outliers(losses):
            # Far above the others a replica has fallen; far below them nothing is.
            if losses[r] < statistics.median(finite):
                losses[r] = math.nan
        columns, place = self._columns(self.offsets())
        found = slopes(without_outliers(losses), columns)
        spread = Slopes(
            [found.slope[k] for k in place], [found.t[k] for k in place], found.confounded
        )
        rate_slopes = {place[j]: found.slope[place[j]] for j in self._rates()}
        fallen = self.rates.fallen(losses, math.fsum(rate_slopes.values()), self._paired)
        return Reading(list(losses), spread, fallen)

    def plausible(self, losses: Sequence[float]) -> list[float]:
        """Return the training losses without those out of all proportion to the others.

        Args:
            losses: of each replica's interval.

        Returns:
            The same, with NaN for what is not finite or not plausible.
        """
        losses = [loss if abs(loss) < LARGEST else math.nan for loss in losses]
        for r in self.rates.tracker.outliers(losses):
            losses[r] = math.nan
        return losses

    def update(self, reading: Reading, losses: Sequence[float], trust: Sequence[float]) -> Move:
        """Move the base values after a sync.

        Args:
            reading: from `read` at this sync.
            losses: training loss of each replica over the interval; if none is finite, those
                that were read.
            trust: for each dimension how much of a move to make while holding, 0 to 1.

        Returns:
            What has happened to the rates. If the loss has exploded, the caller restores the
            averaged weights.
        """
        rows = self.offsets()
        finite = [x for x in reading.losses if math.isfinite(x)]
        lowest = min(finite, default=math.inf)
        # Of many losses of different batches the lowest is low by chance.
        typical = lowest if self._paired or not finite else statistics.median(finite)
        signs = reading.evidence
        rates = self._rates()
        clear = math.fsum(signs[j] for j in rates) / len(rates) if rates else 0.0
        place = math.fsum(self.places[j] for j in rates) / len(rates) if rates else 0.0
        cliff = bool(reading.fallen)
        climbed = self.rates.climbing
        move = self.rates.update(clear, self._mean(losses, finite), typical, cliff, place)
        best = reading.losses.index(lowest) if finite else 0
        for j, dimension in enumerate(self.dimensions):
            step = HOLD_GAIN * signs[j]
            if dimension.is_rate:
                if climbed or move.exploded or move.restored:
                    step = move.step
                else:
                    step *= trust[j] * (1.0 if self._paired or step > 0 else _DAMPED)
                if cliff and not (move.exploded or move.restored):
                    width = CLIMB_WIDTH if climbed else dimension.width
                    step = min(step, width * rows[j][best])
            self.places[j] = dimension.clamp(self.places[j] + step)
        self.syncs += 1
        return move

    def _mean(self, losses: Sequence[float], read: Sequence[float]) -> float:
        """Return the mean of the plausible losses; NaN if there are none."""
        given = [x for x in self.plausible(losses) if math.isfinite(x)] or read
        # Divided first: the sum of what is finite need not be.
        return math.fsum(x / len(given) for x in given) if given else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        names = [d.name for d in self.dimensions]
        return {
            "syncs": self.syncs,
            "seed": self._seed,
            "places": dict(zip(names, self.places, strict=True)),
            "rates": self.rates.state_dict(),
        }

    def parsed(self, entries: Entries) -> "Exploration":
        """Return an exploration that stands where a state says; nothing here changes.

        Raises:
            ValueError: if the state is damaged, or of other hyperparameters or bounds.
        """
        names = [d.name for d in self.dimensions]
        places = entries.entries("places")
        if sorted(places.keys()) != sorted(names):
            entries.refuse(
                "places",
                places.keys(),
                f"must be of the hyperparameters explored here, {names}",
                "give `explore` as it was when the state was saved",
            )
        fresh = copy.copy(self)
        fresh.syncs = entries.integer("syncs")
        fresh._seed = entries.integer("seed", -(2**64), 2**64)
        fresh.places = [self._place(places, d) for d in self.dimensions]
        fresh.rates = RateSearch.parsed(entries.entries("rates"))
        if fresh.rates.climbing and not self._rates():
            entries.refuse("rates.climbing", True, "must be False where no rate is explored")
        return fresh

    def assign(self, parsed: "Exploration") -> None:
        """Go on from what `parsed` returned."""
        vars(self).update(vars(parsed))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; one that does not fit is refused, and changes nothing."""
        self.assign(self.parsed(Entries(state, "Explorer")))

    @staticmethod
    def _place(places: Entries, dimension: Dimension) -> float:
        place = places.number(dimension.name)
        # Another machine's logarithm of the bounds may differ in the last bit.
        if abs(place - dimension.clamp(place)) > 1e-9:
            places.refuse(
                dimension.name,
                place,
                f"must stand within its bounds, {list(dimension.bounds)}",
                "give `explore` the bounds that it had when the state was saved",
            )
        return dimension.clamp(place)

    def _rates(self) -> list[int]:
        return [j for j, d in enumerate(self.dimensions) if d.is_rate]

    def _width(self, dimension: Dimension) -> float:
        climbing = dimension.is_rate and self.rates.climbing
        return CLIMB_WIDTH if climbing else dimension.width

    def _columns(self, rows: list[list[float]]) -> tuple[list[list[float]], list[int]]:
        """Return the columns to regress on, and for each dimension which one is its own."""
        columns: list[list[float]] = []
        place, joint = [], None
        for dimension, row in zip(self.dimensions, rows, strict=True):
            if dimension.is_rate and self.rates.climbing:
                if joint is None:
                    joint = len(columns)
                    columns.append(row)
                place.append(joint)
            else:
                place.append(len(columns))
                columns.append(row)
        return columns, place

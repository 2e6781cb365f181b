"""Where every hyperparameter stands, who plays which value, and how a sync moves them.

The pure part of `Explorer`: it maps what was gathered to new values, and never sees a process
group or a tensor. At each sync (`decide`)

    slopes of the losses over the offsets of all hyperparameters      (attribution)
    replicas that have diverged are excluded from the average         (divergence)
    rates after a loss spike: back, and down to a third               (rate_guard)
    rates:                  coordinate += track_step * gain * confidence, each on its own;
                            after a search less the mean of the moves, so that only ratios move
    anything else:          coordinate += track_step * confidence
    new permutations

Before the first sync the scale of the rates is searched (rate_search). While it is, all rates
move as one, in a trial each replica's by itself, and everything else stays. The scale found is
then held: losses do not move it, only first-order evidence does (`hold`).

A coordinate is a value on its own scale, such as the logarithm of the factor on a learning
rate; the gain falls from 1 to 0 as the schedule decays.

Source: HDET (arXiv 2604.24708), equations (1) and (7).
"""

import copy
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from ...state import Entries
from ..ensemble.gathered import Gathered
from .attribution import Slopes, confidence, slopes, without_outliers
from .config import DEFAULT, SearchConfig
from .decision import Decision
from .dimensions import Dimension
from .divergence import diverged, implausible
from .loss_tracker import LARGEST
from .rate_guard import Move, RateGuard
from .rate_search import RateSearch


class Exploration:
    """The state of all hyperparameters that are explored; equal on every rank.

    Args:
        dimensions: what is explored, with unique names.
        replicas: N >= 2.
        seed: of the permutations.
        permutation: permutation(n, seed, sync, name) -> the order of n replicas.
        search: whether the scale of the learning rates is searched first.
        trials: whether the replicas can train apart for it.
        paired: whether the losses will be those of a common probe batch. Without, they are
            noisier, and always asking for smaller rates: downward moves are damped.
        config: the constants.
        spread: whether the replicas' values differ; else all have the base values.

    Attributes:
        coordinates: the base value of each dimension, on its scale.
        syncs: decisions so far.
        search: the search for the scale of the learning rates; None when it is over.
        held: whether a search has found their scale. Then `decide` moves only their ratios.
        guard: what is known of the losses, and of spikes.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        replicas: int,
        seed: int,
        permutation: Callable[[int, int, int, str], list[int]],
        *,
        search: bool,
        paired: bool,
        trials: bool = False,
        config: SearchConfig = DEFAULT,
        spread: bool = True,
    ) -> None:
        self.config = config
        self.dimensions = list(dimensions)
        self.replicas = replicas
        self.syncs = 0
        self.guard = RateGuard(config)
        self.search: RateSearch | None = None
        self.held = False
        self.cosine = 0.0  # of old updates and new gradients, the newest
        self.lifted = 0.0  # sum of the moves that followed it
        self._seed = seed
        self._permutation = permutation
        self._paired = paired
        self._trials = trials
        self._spread = spread
        self.coordinates = [d.clamp(d.to_scale(d.value)) for d in dimensions]
        if search and self._rates():
            self.search = self._new_search()
            self.follow_search()
        self._offsets = self._drawn()

    # --- where the values stand

    def offsets(self) -> list[list[float]]:
        """Return, for each dimension and replica, where it stands between -1 and 1."""
        return self._offsets

    def set_spread(self, spread: bool) -> None:
        """Let the replicas' values differ, or give the base values to all."""
        self._spread = spread
        self._offsets = self._drawn()

    def values(self, shifts: Sequence[float] | None = None) -> list[list[float]]:
        """Return, for each dimension and replica, the value in effect until the next sync.

        Args:
            shifts: how far others have moved each dimension, on its scale; default not at all.
        """
        rows = zip(self.dimensions, self._shifted(shifts), self._steps_away(), strict=True)
        return [[d.from_scale(d.clamp(x) + step) for step in row] for d, x, row in rows]

    def base_values(self, shifts: Sequence[float] | None = None) -> list[float]:
        """Return the base value of each dimension; `shifts` as for `values`."""
        pairs = zip(self.dimensions, self._shifted(shifts), strict=True)
        return [d.from_scale(x) for d, x in pairs]

    def _shifted(self, shifts: Sequence[float] | None) -> list[float]:
        if shifts is None:
            return self.coordinates
        return [x + shift for x, shift in zip(self.coordinates, shifts, strict=True)]

    def _steps_away(self) -> list[list[float]]:
        """Return how far each dimension and replica is from the base value, on its scale."""
        still = [0.0] * self.replicas
        if self.search is not None:
            searched = self.search.shifts()
            return [searched if d.is_rate else still for d in self.dimensions]
        rows = zip(self.dimensions, self._offsets, strict=True)
        return [[d.width * z for z in row] for d, row in rows]

    @property
    def differ(self) -> bool:
        """Whether the replicas' values do, outside a search."""
        return any(any(row) for row in self._offsets)

    def _drawn(self) -> list[list[float]]:
        """Draw who plays what until the next sync."""
        n = self.replicas
        differ = self._spread and n > 1
        grid = [2 * r / (n - 1) - 1 if differ else 0.0 for r in range(n)]
        alone = self.held and len(self._rates()) == 1  # a rate without a ratio
        rows = []
        for dimension in self.dimensions:
            order = self._permutation(n, self._seed, self.syncs, dimension.name)
            still = dimension.is_rate and alone
            rows.append([0.0 if still else grid[column] for column in order])
        return rows

    def _new_search(self) -> RateSearch:
        rates = [self.dimensions[j] for j in self._rates()]
        bounds = min(d.clamp(-math.inf) for d in rates), max(d.clamp(math.inf) for d in rates)
        return RateSearch(self.replicas, self._trials, self.config, bounds)

    def _ended_search(self) -> RateSearch:
        ended = RateSearch(self.replicas, self._trials, self.config)
        ended.end("")
        return ended

    def follow_search(self) -> None:
        """Put the rates where the search stands, and leave it where it is over."""
        assert self.search is not None
        for j in self._rates():
            self.coordinates[j] = self.dimensions[j].clamp(self.search.log_factor)
        if self.search.phase == "done":
            self.end_search()

    def end_search(self) -> None:
        """End the search with the rates where they stand."""
        assert self.search is not None
        self.search, self.held = None, True
        self._offsets = self._drawn()

    # --- where they go

    def decide(self, gathered: Gathered, shares: Sequence[float]) -> Decision:
        """Say what becomes of a sync, and move the base values.

        Args:
            gathered: what the replicas have told each other.
            shares: for each dimension, the schedule's share of its own maximum; 1 for what
                has no schedule.
        """
        offsets, before = self._offsets, self._factors_in_words()
        paired = self._paired and any(map(math.isfinite, gathered.probes))
        losses = self._readable(gathered.probes if paired else gathered.losses)
        found, slope = self._slopes(losses)
        confidences = [confidence(t, self.config) for t in found.t]
        excluded = diverged(self.guard.tracker, losses, slope, paired=self._paired)
        move = self._guarded(losses, gathered.losses, bool(excluded))
        finite = [loss for loss in losses if math.isfinite(loss)]
        # Where replicas have diverged, the rates go no further than to the best replica's.
        best = losses.index(min(finite)) if excluded else None
        self._move(move, confidences, shares, best)
        self.syncs += 1
        self._offsets = self._drawn()
        rollback = move.rollback or gathered.all_broken
        note = move.note
        if gathered.all_broken:
            note = "no replica's weights, buffers and optimizer state are finite"
        if rollback:
            note += "; back to the averaged weights"
        if move.rollback or move.given_back:
            note += f", lr factor {before} -> {self._factors_in_words()}"
        return Decision(
            excluded=excluded,
            rollback=rollback,
            offsets=offsets,
            slopes=found,
            confidence=confidences,
            new_level=move.new_level,
            note=note,
        )

    def hold(self, cosine: float | None, steps: Sequence[int], shares: Sequence[float]) -> None:
        """Move the scale of the rates that a search has found by first-order evidence.

            x <- x + hold_gain * log(t / t') * c

        Args:
            cosine: c, of old updates and new gradients; None where there is no newer one.
            steps: t' and t, optimizer steps at the last sync and at this one.
            shares: as for `decide`, and 0 until a schedule has risen: there the cosine would
                ask for more because it is low. Once it decays its rate moves no more.
        """
        if cosine is not None:
            # Of one parameter the cosine may be above 1 by its last bit.
            self.cosine = min(max(cosine, -1.0), 1.0)
        began, now = steps
        move = self.config.hold_gain * math.log(now / max(began, 1)) * self.cosine
        limit, span = self.config.hold_limit, math.log(self.config.hold_span)
        moved = [j for j in self._rates() if shares[j] >= self.config.hold_share]
        before = self.lifted
        if moved:
            self.lifted = min(max(before + min(max(move, -limit), limit), -span), span)
        for j in moved:
            at = self.coordinates[j] + (self.lifted - before)
            self.coordinates[j] = self.dimensions[j].clamp(at)

    def plausible(self, losses: Sequence[float]) -> list[float]:
        """Return the training losses of the replicas that are finite and plausible."""
        losses = [loss if abs(loss) < LARGEST else math.nan for loss in losses]
        for r in implausible(self.guard.tracker, losses):
            losses[r] = math.nan
        return [loss for loss in losses if math.isfinite(loss)]

    def _readable(self, losses: Sequence[float]) -> list[float]:
        """Return the losses to be read, not finite where a replica is to be ignored."""
        losses = [loss if abs(loss) < LARGEST else math.inf for loss in losses]
        finite = [loss for loss in losses if math.isfinite(loss)]
        for r in implausible(self.guard.tracker, losses):
            # Far above the others a replica has diverged; far below them nothing is.
            if losses[r] < statistics.median(finite):
                losses[r] = math.nan
        return losses

    def _slopes(self, losses: Sequence[float]) -> tuple[Slopes, float]:
        """Return the slope of each dimension, and the sum of those of the rates."""
        found = slopes(without_outliers(losses, self.config), self._offsets, self.config)
        return found, math.fsum(found.slope[j] for j in self._rates())

    def _guarded(
        self, losses: Sequence[float], training: Sequence[float], excluded: bool
    ) -> Move:
        """Let the guard take in a sync."""
        finite = [loss for loss in losses if math.isfinite(loss)]
        lowest = min(finite, default=math.inf)
        # Of many losses of different batches the lowest is low by chance.
        typical = lowest if self._paired or not finite else statistics.median(finite)
        rates = self._rates()
        log_rate = 0.0
        if rates:
            log_rate = math.fsum(self.coordinates[j] for j in rates) / len(rates)
        given = self.plausible(training) or finite
        # Divided first: the sum of what is finite need not be.
        mean = math.fsum(x / len(given) for x in given) if given else math.nan
        return self.guard.update(mean, typical, excluded, log_rate)

    def _move(
        self,
        move: Move,
        confidences: Sequence[float],
        shares: Sequence[float],
        best: int | None,
    ) -> None:
        """Move the base values; `best` is the replica whose rates are the limit, if any."""
        forced = move.rollback or move.given_back
        steps = self._steps(confidences, shares)
        for j, dimension in enumerate(self.dimensions):
            step = steps[j]
            if dimension.is_rate:
                if forced:
                    step = move.step
                if best is not None and not forced:
                    step = min(step, dimension.width * self._offsets[j][best])
            self.coordinates[j] = dimension.clamp(self.coordinates[j] + step)

    def _steps(self, confidences: Sequence[float], shares: Sequence[float]) -> list[float]:
        """Return by how much each coordinate moves where nothing has gone wrong."""
        steps = [self.config.track_step * c for c in confidences]
        rates = self._rates()
        for j in rates:
            damped = steps[j] < 0 and not self._paired
            gain = shares[j] ** self.config.decay_power
            steps[j] *= gain * (self.config.unprobed_damping if damped else 1.0)
        if self.held and rates:
            common = math.fsum(steps[j] for j in rates) / len(rates)
            for j in rates:
                steps[j] -= common
        return steps

    def _rates(self) -> list[int]:
        return [j for j, d in enumerate(self.dimensions) if d.is_rate]

    def _factors_in_words(self) -> str:
        """Return the factors on the learning rates, or their range, for a log."""
        pairs = zip(self.dimensions, self.base_values(), strict=True)
        factors = [value for d, value in pairs if d.is_rate] or [1.0]
        low, high = f"{min(factors):.3g}", f"{max(factors):.3g}"
        return low if low == high else f"{low} to {high}"

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        names = [d.name for d in self.dimensions]
        return {
            "syncs": self.syncs,
            "seed": self._seed,
            "coordinates": dict(zip(names, self.coordinates, strict=True)),
            "rates": self.guard.state_dict(),
            "held": self.held,
            "cosine": self.cosine,
            "lifted": self.lifted,
            # The same entries at any time, as `torch.distributed.checkpoint` asks for.
            "search": (self.search or self._ended_search()).state_dict(),
        }

    def parsed(self, entries: Entries) -> "Exploration":
        """Return an exploration that stands where a state says; nothing here changes.

        Raises:
            ValueError: if the state is damaged, or of other hyperparameters or bounds.
        """
        names = [d.name for d in self.dimensions]
        coordinates = entries.entries("coordinates")
        if sorted(coordinates.keys()) != sorted(names):
            entries.refuse(
                "coordinates",
                coordinates.keys(),
                f"must be of the hyperparameters explored here, {names}",
                "give `explore` as it was when the state was saved",
            )
        fresh = copy.copy(self)
        fresh.syncs = entries.integer("syncs")
        fresh._seed = entries.integer("seed", -(2**64), 2**64)
        fresh.coordinates = [_coordinate(coordinates, d) for d in self.dimensions]
        fresh.guard = RateGuard.parsed(entries.entries("rates"), self.config)
        fresh.search = None
        fresh.held = entries.has("held") and entries.boolean("held")
        if entries.has("cosine"):  # states of v0.1 have neither
            span = math.log(self.config.hold_span)
            fresh.cosine = entries.number("cosine", -1.0, 1.0)
            fresh.lifted = entries.number("lifted", -span, span)
        if entries.has("search"):
            begun = self.search or (self._new_search() if self._rates() else None)
            found = (begun or self._ended_search()).parsed(entries.entries("search"))
            if found.phase != "done" and begun is None:
                entries.refuse("search", "going on", "must be over: no rate is explored here")
            fresh.search = None if found.phase == "done" else found
        fresh._offsets = fresh._drawn()
        return fresh

    def assign(self, parsed: "Exploration") -> None:
        """Go on from what `parsed` returned."""
        vars(self).update(vars(parsed))


def _coordinate(coordinates: Entries, dimension: Dimension) -> float:
    x = coordinates.number(dimension.name)
    # Another machine's logarithm of the bounds may differ in the last bit.
    if abs(x - dimension.clamp(x)) > 1e-9:
        coordinates.refuse(
            dimension.name,
            x,
            f"must stand within its bounds, {list(dimension.bounds)}",
            "give `explore` the bounds that it had when the state was saved",
        )
    return dimension.clamp(x)

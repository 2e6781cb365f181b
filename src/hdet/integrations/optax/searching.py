"""`Explorer` while the learning rate is searched: what `rate_search` asks for, on pytrees.

Arrays of JAX never change, so a snapshot of the climb is the weights themselves, of one replica
since all are equal; and a trial is undone by going on from the state that it began with.
"""

import logging
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...replica.explorer.config import SearchConfig
from ...replica.explorer.deferral import Deferral
from ...replica.explorer.exploration import Exploration
from ...replica.explorer.held_schedule import HeldSchedule
from ...replica.explorer.rate_search import RateSearch, Turn
from .averaged_weights import AveragedWeights
from .probe import CommonProbe
from .replicas import Replicas
from .state import Controls, ExplorerState, Seen, trained, with_trained

_log = logging.getLogger("hdet")


class Snapshot(NamedTuple):
    """Weights of the climb, of one replica, and the log rate that they were trained at."""

    log_rate: float
    params: Any
    extra: Any


class Searching:
    """A base of `Explorer`; see there for all attributes that it sets."""

    replicas: Replicas
    _config: SearchConfig
    _exploration: Exploration
    _held: HeldSchedule
    _probe: CommonProbe
    _average: AveragedWeights
    _optimizer: Any
    _step: int
    _begun: int  # the step from which syncs are counted
    _losses: int  # in the interval
    _follows: bool  # whether old updates move the rate
    _deferral: Deferral
    _snapshots: list[Snapshot]
    _calls: int  # for snapshots
    _stride: int  # every how many calls there is one
    _parted: Any  # what a trial began with, and goes back to; None outside of one
    _last_line: str

    def _search_step(self, state: ExplorerState, search: RateSearch) -> ExplorerState:
        """Take in a step of the search, and do what it asks for."""
        rate = search.log_factor
        agreement = self._agreement(state) if search.phase == "climb" else None
        turn = search.advance(agreement)
        if search.phase == "trial" and search.steps == 1:
            _, _, own, _, shared = mean_sums(state.seen.newest)
            search.compare_gradients(own, shared)
        if turn.snapshot:
            self._take_snapshot(state, rate)
        if turn.roll_back:
            state = self._roll_back(state, search)
        if turn.score:
            losses = self._probe.at_trial(state, self._config.trial_probes)
            state = self._back_together(state)
            turn = search.judge(losses)
        if turn.part:
            if search.first_trial:
                losses = self._probe.at_trial(state, self._config.trial_probes)
                search.before_trials(math.fsum(losses) / len(losses))
            self._parted = trained(state)
        if turn.note:
            self._say(logging.WARNING if turn.lost else logging.INFO, turn.note)
        self._exploration.follow_search()
        if search.found:
            state = self._warm_up(state, search, turn)
        if search.phase != "climb":
            state = self._new_interval(state)
        return self._controlled(state)

    def _warm_up(self, state: ExplorerState, search: RateSearch, turn: Turn) -> ExplorerState:
        """Take in a step at which the rate is found, or has been."""
        if search.phase == "warmup":
            search.decaying = self._held.falls
        if turn.found:
            state = self._follow_schedule(state)
        if self._config.hold_gain > 0:
            state, _ = self._advance_evidence(state)
        if turn.done:
            self._begun, self._follows = self._step, self._config.hold_gain > 0
        return state if self._config.hold_gain > 0 else with_seen(state, previous=None)

    def _agreement(self, state: ExplorerState) -> float | None:
        """Return how far the last update and the new gradient agree."""
        signed, size, *_ = mean_sums(state.seen.newest)
        if not (math.isfinite(signed) and math.isfinite(size)):
            return math.nan
        return signed / size if size else None

    def _take_snapshot(self, state: ExplorerState, rate: float) -> None:
        """Keep the weights; where there are too many drop every second, here and later."""
        if self._calls % self._stride == 0:
            kept = self._first((state.params, state.extra))
            self._snapshots.append(Snapshot(rate, *kept))
        self._calls += 1
        if len(self._snapshots) > self._config.snapshots:
            self._snapshots = self._snapshots[::2]
            self._stride *= 2

    def _roll_back(self, state: ExplorerState, search: RateSearch) -> ExplorerState:
        """Go back to where the climb had the rate that it ends at."""
        means = self._mean_losses(state)
        finite = [mean for mean in means if math.isfinite(mean)]
        if finite:
            # What a spike loses is measured by what the run has gained, the climb included.
            self._exploration.guard.tracker.begin(math.fsum(finite) / len(finite))
        low_enough = [s for s in self._snapshots if s.log_rate <= search.log_factor]
        found = low_enough[-1] if low_enough else self._snapshots[0]
        self._forget_climb()
        self._average.keep(found.params, found.extra)
        opt_state = self._new_moments(state.opt_state, found.params)
        extra = self._put_back(state.extra, found.extra)
        return with_trained(state, (self.replicas.spread(found.params), opt_state, extra))

    def _new_moments(self, opt_state: Any, params: Any) -> Any:
        """Return the optimizer's state with the moments of a fresh one."""
        return self._restarted(opt_state, self.replicas.spread(self._optimizer.init(params)))

    def _put_back(self, extra: Any, kept: Any) -> Any:
        """Return what goes with weights that are put back; what is no float goes on."""
        return jax.tree.map(
            lambda now, old: old if jnp.issubdtype(now.dtype, jnp.floating) else now,
            extra,
            self.replicas.spread(kept),
        )

    def _back_together(self, state: ExplorerState) -> ExplorerState:
        """Undo a trial: only the steps are counted."""
        parted, self._parted = self._parted, None
        return with_trained(state, parted)

    def _follow_schedule(self, state: ExplorerState) -> ExplorerState:
        """Be on the schedule from now on, with new moments."""
        self._held.peak = None
        rate = self._exploration.base_values()[0] * self._peak
        warmup = f"after at most {self._config.warmup_steps} steps of warm-up"
        self._say(logging.INFO, f"the search is over: learning rate {rate:.3g}, {warmup}")
        opt_state = self._new_moments(state.opt_state, self._first(state.params))
        return with_trained(state, (state.params, opt_state, state.extra))

    def _forget_climb(self) -> None:
        self._snapshots, self._calls, self._stride = [], 0, 1

    def _controlled(self, state: ExplorerState) -> ExplorerState:
        """Give each replica its rate, and say whether it trains alone."""
        search, count = self._exploration.search, self.replicas.size
        controls = Controls(
            factor=self.replicas.numbers(self._exploration.values()[0]),
            searching=self.replicas.numbers([self._held.peak is not None] * count),
            apart=self.replicas.numbers(
                [search is not None and search.phase == "trial"] * count
            ),
        )
        return state._replace(controls=controls)

    def _advance_evidence(self, state: ExplorerState) -> tuple[ExplorerState, float | None]:
        """Go on after a step at which the replicas' weights are equal.

        Returns:
            The state, and the cosine where a score is complete.
        """
        phase, cosine = self._deferral.due(self._step), None
        if phase is None:
            return state, None
        if self._deferral.phase == "scoring":
            cosine = self._cosine(state)
        seen = state.seen
        if phase == "moving":
            kept = self.replicas.numbers([True] * self.replicas.size)
            seen = seen._replace(previous=state.params, kept=kept)
        if phase == "waiting":
            moved = jax.tree.map(jnp.subtract, state.params, seen.previous)
            seen = seen._replace(previous=moved)
        if phase == "scoring":
            seen = seen._replace(total=self.replicas.zeros(seen.total))
        self._deferral.begin(phase, self._step)
        return state._replace(seen=seen), cosine

    def _cosine(self, state: ExplorerState) -> float | None:
        signed, _, gradients, moves, _ = mean_sums(state.seen.total)
        size = math.sqrt(gradients) * math.sqrt(moves)
        cosine = signed / size if size else math.nan
        return cosine if math.isfinite(cosine) else None

    def _new_interval(self, state: ExplorerState) -> ExplorerState:
        self._losses = 0
        return with_seen(state, loss=self.replicas.zeros(state.seen.loss))

    def _mean_losses(self, state: ExplorerState) -> list[float]:
        return [total / self._losses for total in state.seen.loss.tolist()]

    def _say(self, level: int, words: str) -> None:
        """Log a line, and keep it for `repr`."""
        self._last_line = f"step {self._step}: {words}"
        _log.log(level, "step %d: %s", self._step, words)

    # Set by `Explorer`.
    _peak: float
    _first: Any
    _restarted: Any


def mean_sums(sums: jax.Array) -> list[float]:
    """Return the five sums, averaged over the replicas."""
    rows = sums.tolist()
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def with_seen(state: ExplorerState, **changes: Any) -> ExplorerState:
    """Return the state with other entries of `seen`."""
    seen: Seen = state.seen
    return state._replace(seen=seen._replace(**changes))

"""`Explorer` while the scale of the learning rates is searched: what `rate_search` asks for.

In the climb the replicas are one: they share every gradient and take equal steps. Each reads
the same agreement, and goes back to the same snapshot. In a trial each trains alone
(`ensemble.apart`), and all of it is undone.
"""

import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ...errors import where
from ...state import Entries
from ..ensemble.deferred_agreement import DeferredAgreement
from ..ensemble.gradient_gain import GradientGain
from ..ensemble.restart import restart_moments
from ..ensemble.update_agreement import UpdateAgreement
from .deferral import Deferral
from .held_schedule import decaying
from .probe import evaluate, evaluation_weights
from .rate_search import RateSearch, Turn
from .snapshots import Snapshots
from .state import NAME
from .still import ExplorerStill


class ExplorerSearch(ExplorerStill):
    """A base of `Explorer`; see there for all attributes that it sets."""

    def _begin_search(self) -> None:
        """Watch the updates from the next step on, at the rates of the search. Local."""
        replicas, model = self._ensemble.replicas, self._model
        self._watching = True
        search = self._exploration.search
        if search is not None and not search.found:
            self._schedule.begin_search()
        self._agreement = UpdateAgreement(self.optimizer, replicas)
        if search is None or search.phase != "climb":
            self._agreement.close()
        self._snapshots = Snapshots(self.optimizer, model, replicas, self._config.snapshots)
        self._begin_evidence()
        if search is not None and search.phase == "trial" and search.steps == 0:
            self._gain = GradientGain(self.optimizer, replicas)

    def _follow_schedule(self) -> None:
        """Be on the schedule from now on, with new moments. Local."""
        self._schedule.end_search()
        restart_moments(self.optimizer)

    def _end_search(self) -> None:
        """Track the rate found from now on. Local."""
        self._begun = self._step
        if self._config.hold_gain == 0:
            self._deferred.close()
            self._watching = False

    def _why_no_trials(self) -> str | None:
        """Return why there can be no trials, with a remedy; None if there can. Local."""
        if self._probe is None:
            return "there is no probe to compare replicas by: give `probe=hdet.probe(...)`"
        if self._skipped:
            return "a GradScaler has skipped steps: train in bfloat16 without a scaler"
        return self._trial.reason()

    def _hold(self, shares: Sequence[float]) -> None:
        """Move the rates' scale at a sync, until the schedule decays. Collective."""
        self._evidence = ""
        self._warn_of_rise()
        if not self._watching:
            return
        self._move_by_evidence()
        rates = [j for j, d in enumerate(self._exploration.dimensions) if d.is_rate]
        if all(shares[j] < self._config.hold_share for j in rates):
            self._deferred.close()
            self._watching = False

    def _warn_of_rise(self) -> None:
        """Warn once where the schedule goes beyond what the search was around. Local."""
        above = [k for k, held in enumerate(self._schedule.groups) if held.above_written]
        # What others scale goes on after the search as it should.
        if not above or self._values.taken_over or "a rise" in self._told:
            return
        self._told.add("a rise")
        held = self._schedule.groups[above[0]]
        warnings.warn(
            f"{where()}`{NAME}` searched around {held.written:.3g}, the highest rate of the "
            f"schedule that it knows, and the schedule has risen to {held.highest:.3g}: the "
            f"rate found is multiplied by that much. Give the optimizer the schedule's highest "
            f"rate as `lr`, and let the schedule return shares of it, at most 1.",
            stacklevel=6,
        )

    def _search_state(self) -> bytes | None:
        """See `ExplorerState`. One entry at any time, for `torch.distributed.checkpoint`."""
        if not self._watching or not self._exploring:
            return None
        state = {
            "agreement": self._agreement.state_dict(),
            "snapshots": self._snapshots.state_dict(),
            "trial": self._trial.state_dict(),
            "skipped": self._skipped,
            "deferral": self._deferral.state_dict(),
            "deferred": self._deferred.state_dict(),
        }
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    def _parsed_search(self, entries: Entries) -> Any:
        """See `ExplorerState`."""
        saved = entries.raw("search")
        if saved is not None and not isinstance(saved, bytes):
            entries.refuse("search", saved, "must be bytes or None: it is damaged")
        if saved is None or not self._takes_part:
            return None
        try:
            state = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
        except Exception:
            entries.refuse("search", f"{len(saved)} bytes", "cannot be read: it is damaged")
        entries = Entries(state, NAME, path="search.")
        replicas = self._ensemble.replicas
        agreement = UpdateAgreement(self.optimizer, replicas)
        snapshots = Snapshots(self.optimizer, self._model, replicas, self._config.snapshots)
        deferred = DeferredAgreement(self.optimizer, replicas)
        deferral = Deferral(self._config.evidence_steps, self._config.evidence_delay)
        evidence = None
        try:
            seen = agreement.parsed(entries.entries("agreement"))
            kept = snapshots.parsed(entries.entries("snapshots"))
            trial = self._trial.parsed(entries.entries("trial"))
            why = None if trial is None else self._why_no_trials()
            if why is not None:
                rule = "has each replica's own weights, which only a trial can take back here"
                entries.refuse("trial", "begun", rule, f"{why}. Or load a state from before it")
            skipped = entries.boolean("skipped")
            if entries.has("deferral"):  # states of v0.1 have neither
                deferral = deferral.parsed(entries.entries("deferral"))
                evidence = deferred.parsed(entries.entries("deferred"))
        finally:
            agreement.close()
            deferred.close()
        return seen, kept, trial, skipped, evidence and (deferral, evidence)

    def _assign_search(self, parsed: Any) -> None:
        """See `ExplorerState`."""
        if self._watching:
            self._agreement.close()
            self._deferred.close()
        self._watching = self._skipped = False
        self._trial.assign(None if parsed is None else parsed[2])
        searching = self._active and self._exploration.search is not None
        if searching or (self._active and parsed is not None):
            self._begin_search()
        if not searching:
            self._schedule.end_search()
        if self._watching and parsed is not None:
            self._agreement.assign(parsed[0])
            self._snapshots.assign(parsed[1])
            self._skipped = parsed[3]
            if parsed[4] is not None:
                self._deferral, evidence = parsed[4]
                self._deferred.assign(evidence)

    def _search_step(self, search: RateSearch) -> None:
        """Take in a step of the search.

        Collective but for `settle` and inside a trial, after its first step.
        """
        rate = search.log_factor
        agreement = self._read_agreement() if search.phase == "climb" else None
        turn = search.advance(agreement)
        if search.phase == "trial" and search.steps == 1:
            self._ensemble.assemble("the search", self._step)
            search.compare_gradients(*self._gain.read())
        if turn.snapshot:
            self._snapshots.take(self._step, rate)
        if turn.roll_back:
            self._roll_back(search)
        if turn.score:
            turn = self._score_trial(search)
        why = self._why_no_trials() if turn.part else None
        if why is not None:
            turn = search.find(f"no trials: {why}")
        if turn.part:
            self._begin_trial(search)
        if turn.note:
            self._say(logging.WARNING if turn.lost else logging.INFO, turn.note)
        self._exploration.follow_search()
        if search.found:
            self._warm_up(search, turn)
        if search.phase != "climb":
            self._ensemble.meter.reset()

    def _warm_up(self, search: RateSearch, turn: Turn) -> None:
        """Take in a step at which the rate is found, or has been. Collective."""
        if search.phase == "warmup":
            search.decaying = self._falls()
        if turn.found:
            self._follow_schedule()
            self._say(logging.INFO, self._found_message())
        if self._config.hold_gain > 0:
            self._advance_evidence()
        if turn.done:
            self._end_search()

    def _falls(self) -> bool:
        """Return whether the schedule falls on every replica, whose loops may scale it apart.

        Collective.
        """
        self._ensemble.assemble("the search", self._step)
        falls = decaying(self._exploration.dimensions, self._schedule.groups)
        return all(row[0] for row in self._ensemble.gather_numbers([float(falls)]))

    def _read_agreement(self) -> float | None:
        """Return how far the last update and the new gradient agree. Collective."""
        self._ensemble.assemble("the search", self._step)
        newest = self._agreement.read()
        if not newest.finite:
            return math.nan
        return newest.agreement if newest.known else None

    def _roll_back(self, search: RateSearch) -> None:
        """Go back to where the climb had the rate that it ends at. Collective."""
        lowest = math.log(self._config.climb_start)
        self._snapshots.restore(max(search.log_factor, lowest))
        restart_moments(self.optimizer)
        self._snapshots.clear()
        self._agreement.close()
        self._ensemble.weights_changed()
        self._averaged.keep()
        # What a spike loses is measured by what the run has gained, the climb included.
        finite = [mean for mean in self._ensemble.mean_losses() if math.isfinite(mean)]
        if finite:
            self._exploration.guard.tracker.begin(math.fsum(finite) / len(finite))

    def _begin_trial(self, search: RateSearch) -> None:
        """Let each replica train alone, and look at its first gradient. Collective at first."""
        if search.first_trial:
            losses = self._ensemble.gather_numbers([float(self._trial_score(search))])
            search.before_trials(math.fsum(row[0] for row in losses) / len(losses))
        self._trial.begin()
        self._gain = GradientGain(self.optimizer, self._ensemble.replicas)

    def _score_trial(self, search: RateSearch) -> Turn:
        """Compare the replicas at the end of a trial, and undo it. Collective."""
        score = self._trial_score(search)
        gathered = self._ensemble.gather(self._step, probe=score, recoverable=True)
        self._ensemble.leave_apart()
        self._trial.end(None)
        self._ensemble.weights_changed()
        if any(row[0] for row in self._ensemble.gather_numbers([float(self._skipped)])):
            raise RuntimeError(
                f"{where()}`{NAME}`: a GradScaler has skipped steps while each replica trained "
                f"alone, so the replicas' scales differ and their gradients can no longer be "
                f"averaged. Train in bfloat16 without a scaler, or with `search=False`."
            )
        turn = search.judge(gathered.probes)
        self._tried = search.tried()
        self._agree()
        return turn

    def _trial_score(self, search: RateSearch) -> float | Tensor:
        """Return this replica's mean loss on the probe batches of a trial. Collective."""
        self._ensemble.assemble("the probe", self._step)
        assert self._probe is not None
        args = (self._probe, self._model, self._probe_mode, self._seed)
        count = self._config.trial_probes
        with evaluation_weights(self.optimizer):
            scores = [evaluate(*args, search.trial * count + k)[0] for k in range(count)]
        return sum(scores[1:], scores[0]) / count

    def _found_message(self) -> str:
        found = self._found_from(self._schedule.peak_rates)
        rates = ", ".join(f"{rate:.3g}" for rate in found)
        warmup = f"after at most {self._config.warmup_steps} steps of warm-up"
        return f"the search is over: learning rate {rates}, {warmup}"

    @contextmanager
    def converged(self, restore: bool = False) -> Iterator[None]:
        """See `Converging.converged`.

        A trial that has begun is set aside for the block, which has the weights from before
        it. Without `restore` it begins anew.
        """
        with self._trial_aside(restore), super().converged(restore):
            yield

    def converge(self) -> None:
        """See `Converging.converge`. A trial that has begun is undone, and begins anew."""
        with self._trial_aside(restore=False):
            super().converge()

    @contextmanager
    def _trial_aside(self, restore: bool) -> Iterator[None]:
        """Undo a trial that has begun; with `restore` for the block alone. Local."""
        search = self._exploration.search
        if search is None or search.phase != "trial" or not self._exploring:
            yield
            return
        steps = search.steps
        search.postpone_trial()
        try:
            with self._trial.aside() if restore else nullcontext(self._trial.end(None)):
                self._ensemble.weights_changed()
                self._apply()
                yield
        finally:
            if restore:
                search.resume_trial(steps)
            self._ensemble.weights_changed()
            self._apply()

"""What `Explorer` saves, takes up again, and compares between the replicas.

A state is parsed whole before any of it is assigned. That of the wrapped scheduler itself, from
a run that had no Explorer yet, is taken over: the schedule goes on at the same rate.
"""

import math
import warnings
import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from ...errors import where
from ...state import Entries
from ..ensemble.agreement import Facts, public_numbers
from ..ensemble.apart import Apart
from ..ensemble.converging import Converging
from ..ensemble.deferred_agreement import DeferredAgreement
from ..ensemble.gradient_gain import GradientGain
from ..ensemble.permutation import permutation
from ..ensemble.update_agreement import UpdateAgreement
from .averaged_weights import AveragedWeights
from .config import SearchConfig
from .deferral import Deferral
from .dimensions import Dimension
from .exploration import Exploration
from .outer_scheduler import OuterScheduler
from .probe import Mode as ProbeMode
from .probe import Probe
from .replica_values import ReplicaValues
from .run_log import RunLog
from .snapshots import Snapshots
from .wrapped_schedule import WrappedSchedule

NAME = "Explorer"
Mode = Literal["tune", "observe"]
MODES = ("tune", "observe")


# Who explores what in an optimizer, the last one that was made for it.
_owners: "weakref.WeakKeyDictionary[Optimizer, dict[str, weakref.ref[ExplorerState]]]"
_owners = weakref.WeakKeyDictionary()


class ExplorerState(Converging, OuterScheduler):
    """The base of `Explorer`; see there for all attributes that it sets."""

    _superseded: str | None = None
    optimizer: Optimizer
    _probe: Probe | None
    _probe_mode: ProbeMode
    _model: nn.Module | None
    _interval: int
    _warmup: int
    _seed: int
    _search: bool | None
    _step: int
    _mode: Mode
    _freeze_after: int | None
    _frozen: bool
    _config: SearchConfig
    _nonfinite_syncs: int
    _synced: bool
    _introduced: bool
    _found: bool
    _shared_gradients: bool
    _averaged: AveragedWeights
    _watching: bool  # whether updates are compared with gradients
    _skipped: bool  # whether a GradScaler has ever skipped a step
    _begun: int  # the step from which syncs are counted
    _exploration: Exploration
    _agreement: UpdateAgreement  # of the climb
    _deferral: Deferral  # of what follows it
    _deferred: DeferredAgreement
    _snapshots: Snapshots
    _trial: Apart
    _gain: GradientGain  # of the trial's first step
    _schedule: WrappedSchedule
    _values: ReplicaValues
    _listeners: list[Callable[[Any], object]]
    _log: RunLog | None
    _last: dict[str, Any]
    _last_line: str
    _tried: dict[str, Any] | None  # by a trial, for the record
    _climbed: tuple[float, float]  # sum and number of the climb's losses in the record
    _told: set[str]  # what has been warned of
    _evidence: str  # of first order, for the log

    def state_dict(self) -> dict[str, Any]:
        """Return numbers and tensors that load with `weights_only=True`. Local.

        Inside `converged()` it is the same on every rank, so one copy serves all. Elsewhere
        `ensemble.interval` is this rank's own, and the replicas' weights differ: each rank
        saves its own weights and state. Either way the resumed run is the same to the last
        bit. Only while the rate climbs each rank has snapshots of its own: from one
        copy the run resumes as well, but a roll-back may go further back. It holds the averaged
        weights: as much again as the model, DTensors where the model is sharded.
        """
        self._notice_saving()
        if self._scaled:
            self._values.read_unexplored()
        else:
            self._schedule.read()
        return {
            "format": 3,
            "step": self._step,
            "mode": self._mode,
            "frozen": self._frozen,
            "schedule": self._schedule.state_dict(),
            "exploration": self._exploration.state_dict(),
            "begun": self._begun,
            "search": self._search_state(),
            "others": self._values.state_dict(),
            "averaged": self._averaged.state_dict(),
            "ensemble": self._ensemble.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, and set all values to this replica's. Local.

        It may have been saved with another number of replicas: the spread is laid over those
        here, and a single one goes on at the values found. The state of the wrapped scheduler
        itself, from a run that had no Explorer yet, is accepted too, and so is that of one
        that only observed: exploration then begins at its rate, without a search unless
        `search=True`.

        Args:
            state_dict: from `state_dict()` of an Explorer over the same hyperparameters, or
                of the scheduler that is wrapped here.

        Raises:
            ValueError: if it does not fit; then nothing has changed.
        """
        entries = Entries(state_dict, NAME)
        if not entries.has("format") and not entries.has("exploration"):
            self._take_over_schedule(entries, state_dict)
            return
        version = entries.format(1, 2, 3)
        step = entries.integer("step")
        mode, frozen = self._parsed_controls(entries, step)
        schedule = self._schedule.parsed(entries.entries("schedule"))
        explored = entries.entries("exploration")
        if version < 3:
            explored = Entries(_renamed(explored.whole()), NAME, path="exploration.")
        exploration = self._exploration.parsed(explored)
        begun = entries.integer("begun") if entries.has("begun") else self._warmup
        search = self._parsed_search(entries) if entries.has("search") else None
        _move_to_whole_schedule(exploration, entries.entries("schedule"))
        if mode != self._mode:
            exploration = self._new_exploration(self._exploration.dimensions, False)
        ongoing = exploration.search is not None and exploration.search.begun
        if not (exploration.syncs or exploration.held or ongoing):
            begun = self._warmup  # nothing has been explored yet: what is asked for here counts
        others = entries.entries("others") if entries.has("others") else None
        changed = self._values.parsed(others)
        averaged = self._averaged.parsed(entries.entries("averaged"))
        ensemble = self._ensemble.parsed(entries.entries("ensemble"))
        # Nothing can fail any more.
        self._schedule.assign(schedule)
        self._step = step
        self._begun = begun
        self._frozen = frozen
        self._exploration.assign(exploration)
        self._assign_search(search)
        self._exploration.set_spread(not frozen and self._mode == "tune")
        self._values.assign(changed, self._schedule.groups)
        self._averaged.assign(averaged)
        self._ensemble.assign(ensemble)
        self._introduced, self._last, self._nonfinite_syncs = False, {}, 0
        self._last_line = ""
        begun = self._exploration.search is not None and self._exploration.search.begun
        self._found = self._exploration.syncs > 0 or self._exploration.held or begun or frozen
        self._apply()
        if step > self._warmup:
            self._warn_of_another()
        alone = self._scaled and not self._takes_part
        if alone and self._exploration.search is not None:
            self._exploration.end_search()
            warnings.warn(
                f"{where()}`{NAME}.load_state_dict` got a search that has not ended, and one "
                f"replica can't go on with it: the rate stays at "
                f"{self._values.base_values()[0]:.3g} of the schedule. Load it on several "
                f"replicas, or begin anew with a rate of your own.",
                stacklevel=2,
            )

    @abstractmethod
    def _why_no_trials(self) -> str | None:
        """Return why there can be no trials, with a remedy; None if there can. Local."""

    @abstractmethod
    def _search_state(self) -> bytes | None:
        """Return what a search needs beside where it stands; None without one."""

    @abstractmethod
    def _parsed_search(self, entries: Entries) -> Any:
        """Return what `_assign_search` takes. Changes nothing."""

    @abstractmethod
    def _assign_search(self, parsed: Any) -> None:
        """Go on with a search, or without one if it is None."""

    def _parsed_controls(self, entries: Entries, step: int) -> tuple[Mode, bool]:
        """Return the mode of a state, and whether it is frozen for what is asked here."""
        mode: Mode = "tune"  # as all older states are, which do not say
        if entries.has("mode") and entries.text("mode", MODES) == "observe":
            mode = "observe"
        if mode == "tune" and self._mode == "observe":
            entries.refuse(
                "mode",
                mode,
                'must be "observe", since the rates that were found would be given up',
                'load it with mode="tune"; freeze_after=... keeps them as they are',
            )
        frozen, after = entries.has("frozen") and entries.boolean("frozen"), self._freeze_after
        return mode, frozen and after is not None and step >= after

    def _supersede(self) -> None:
        """Take over what is explored here from an Explorer that was made for it before."""
        owners = _owners.setdefault(self.optimizer, {})
        for dimension in self._exploration.dimensions:
            reference = owners.get(dimension.name)
            other = None if reference is None else reference()
            # Names with a slash are of the optimizer's groups; attributes have their modules.
            if other is not None and "/" in dimension.name and other._superseded is None:
                if other._scaled:
                    other._values.lend()
                other._superseded = dimension.name
            owners[dimension.name] = weakref.ref(self)

    def _refuse_superseded(self) -> None:
        if self._superseded is not None:
            raise RuntimeError(
                f"{where()}`{NAME}`: a newer one controls `{self._superseded}` of the same "
                f"optimizer, and both would set it. Step only the one that was made last, or "
                f"give each its own `explore`."
            )

    def _take_over_schedule(self, entries: Entries, state: dict[str, Any]) -> None:
        """Go on from the state of the wrapped scheduler itself, at its own rates."""
        rates = self._schedule.rates_of(entries, state)
        wrapped = self._schedule.parsed_own(entries, state, rates)
        step = self._schedule.steps_of(entries, state)
        self._schedule.assign_own(wrapped)
        self._schedule.begin(rates)
        self._step = step
        self._exploration = self._new_exploration(self._exploration.dimensions, False)
        self._begun = self._warmup
        self._found = self._frozen = False
        self._assign_search(None)
        groups = self._schedule.groups
        self._values = ReplicaValues(self.optimizer, self._exploration, groups)
        self._averaged = AveragedWeights(self.optimizer, self._model, self._config)
        self._ensemble.restart()
        self._introduced, self._last, self._nonfinite_syncs = False, {}, 0
        self._last_line = ""
        self._apply()

    def _new_exploration(self, dimensions: list[Dimension], by_default: bool) -> Exploration:
        """Return an exploration at its start; `by_default` is whether rates are searched."""
        tunes = self._mode == "tune"
        return Exploration(
            dimensions,
            self._ensemble.replicas.size,
            self._seed,
            permutation,
            search=tunes and (by_default if self._search is None else self._search),
            paired=tunes and self._probe is not None,
            trials=self._why_no_trials() is None,
            config=self._config,
            spread=tunes,
        )

    @property
    def _involved(self) -> bool:
        """Whether replicas have anything to do with each other, ever."""
        return bool(self._exploration.dimensions) or not self._shared_gradients

    @property
    def _takes_part(self) -> bool:
        """Whether there are several replicas, and they are involved."""
        return self._ensemble.size > 1 and self._involved

    @property
    def _meeting(self) -> bool:
        """Whether the replicas of what is explored know of each other by now."""
        explores = bool(self._exploration.dimensions)
        return explores and self._takes_part and self._step >= self._warmup

    @property
    def _moves(self) -> bool:
        """Whether values move: something is explored, not only observed, and not frozen."""
        explores = bool(self._exploration.dimensions)
        return explores and self._mode == "tune" and not self._frozen

    @property
    def _looks(self) -> bool:
        """Whether replicas that do not differ meet at the syncs all the same."""
        needed = self._mode == "observe" or self._schedule.needs_a_loss
        return self._takes_part and not self._apart and needed

    @property
    def _apart(self) -> bool:
        return self._moves or not self._shared_gradients

    @property
    def _active(self) -> bool:
        """Whether their values differ by now."""
        return self._moves and self._step >= self._warmup and self._exploring

    @property
    def _scaled(self) -> bool:
        """Whether values are in effect that others have not set."""
        found = self._found and self._mode == "tune" and bool(self._exploration.dimensions)
        return self._active or found

    @property
    def _steps_done(self) -> int:
        return self._step

    def _facts(self) -> Facts:
        """Return what has to be the same on every replica."""
        values, exploration = self._values, self._exploration
        explored = {f"explore {d.name}": d.settings() for d in exploration.dimensions}
        rates = "changed by others" if values.taken_over else values.unscaled()
        return {
            "class": NAME,
            "mode": self._mode,
            "freeze_after": self._freeze_after,
            "frozen": self._frozen,
            "sync_every": self._interval,
            "warmup_steps": self._warmup,
            "probe": self._probe is not None,
            "probe_mode": self._probe_mode,
            "seed": self._seed,
            "search": self._search,
            "shared_gradients and what is averaged": self._ensemble.average_state,
            "optimizer": type(self.optimizer).__name__,
            "schedule": [self._schedule.name, public_numbers(self._schedule.own_state())],
            **explored,
            "rates of the schedule": rates if self._scaled else public_numbers(self.base_lrs),
            **{f"config.{key}": value for key, value in vars(self._config).items()},
            "state of the search": exploration.state_dict(),
            "rates that are searched": [held.peak for held in self._schedule.groups],
        }


def _move_to_whole_schedule(exploration: Exploration, schedule: Entries) -> None:
    """Turn an older state's factors on what its search held into factors on the schedule."""
    for row, entries in enumerate(schedule.rows("groups")):
        if not (entries.has("ended_at") and entries.raw("ended_at")):
            continue
        scale = entries.number("ended_at") / max(entries.number("highest"), 1e-300)
        for j, dimension in enumerate(exploration.dimensions):
            if dimension.group == row and scale > 0:
                moved = exploration.coordinates[j] + math.log(scale)
                exploration.coordinates[j] = dimension.clamp(moved)


# What older states call what an exploration's state has: by its key there.
_OLD_NAMES = {
    "places": "coordinates",
    "climbing": "searching",
    "momentum": "confidence",
    "explosions": "rollbacks",
    "cliffs": "exclusions",
    "returns": "recovery",
    "wild": "implausible",
    "accepted": "new_levels",
}


def _renamed(state: Any) -> Any:
    """Return an older version's state of an exploration under the names of this one."""
    if not isinstance(state, Mapping):
        return state
    found = {_OLD_NAMES.get(key, key): value for key, value in state.items()}
    return {k: _renamed(v) if k in ("rates", "recovery") else v for k, v in found.items()}

"""What `OneCycleAutoLR` saves, takes up again, and compares between the replicas.

A state is parsed whole before any of it is assigned. It has the schedule under OneCycleLR's own
names, so that each of the two takes over the other's.
"""

from typing import Any

from torch.optim.lr_scheduler import OneCycleLR

from ...state import LARGEST_RATE, MOST, Entries
from ..ensemble.agreement import Facts
from ..ensemble.converging import Converging
from .controller import BaseRates, Controller

NAME = "OneCycleAutoLR"
_RATES = ("initial_lr", "max_lr", "min_lr")
_MOMENTA = ("max_momentum", "base_momentum")


class OneCycleState(Converging, OneCycleLR):
    """The base of `OneCycleAutoLR`; see there for all attributes that it sets."""

    _spread: float
    _interval: int
    _warmup: int
    _auto: bool
    _seed: int
    _introduced: bool
    _base: BaseRates
    _base_now: list[float]
    _controller: Controller

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers that load with `weights_only=True`. Local.

        Inside `converged()` it is the same on every rank, so one copy serves all. Elsewhere
        `ensemble.interval` is this rank's own, and the replicas' weights differ: each rank
        saves its own weights and state. Either way the resumed run is the same to the last
        bit.
        """
        self._notice_saving()
        return {
            "format": 3,
            # Under OneCycleLR's own names: it loads this state as far as it goes.
            "last_epoch": self.last_epoch,
            "total_steps": self.total_steps,
            "cycle_momentum": self.cycle_momentum,
            "_schedule_phases": [dict(phase) for phase in self._schedule_phases],
            "_anneal_func_type": self._anneal_func_type,
            "_step_count": self.last_epoch + 1,
            "_last_lr": list(self._base_now),
            "controller": self._base.state_dict(),
            "seed": self._seed,
            "ensemble": self._ensemble.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, and set the optimizer's rates to this replica's. Local.

        It may have been saved with another number of replicas: the spread is laid over those
        here. Losses of an unfinished interval are taken up only by the rank that saved them.
        The state of a plain OneCycleLR is accepted too: the schedule goes on at the same rate.
        As with OneCycleLR, the phases of the schedule come from the state, whatever the
        constructor was given.

        Args:
            state_dict: from `state_dict()` of a scheduler, this one's or OneCycleLR's, with
                the same number of steps and parameter groups.

        Raises:
            ValueError: if it does not fit; then nothing has changed.
        """
        entries = Entries(state_dict, NAME)
        plain = not entries.has("format") and not entries.has("ensemble")
        version = 0 if plain else entries.format(1, 2, 3)
        last_epoch = parsed_step(entries, self.total_steps)
        # The first format has no phases: they are the constructor's.
        phases = parsed_phases(entries, self) if version != 1 else {}
        groups = len(self._base.velocities)
        base, seed, ensemble = BaseRates([0.0] * groups), self._seed, None
        if not plain:
            controller = entries if version == 1 else entries.entries("controller")
            base = parsed_rates(controller, groups)
            seed = entries.integer("seed", -MOST, MOST)
            ensemble = self._ensemble.parsed(entries.entries("ensemble"))
        # Nothing can fail any more.
        vars(self).update(phases)
        self._base, self._seed = base, seed
        if ensemble is None:
            self._ensemble.restart()
        else:
            self._ensemble.assign(ensemble)
        self.last_epoch = last_epoch
        self._step_count = last_epoch + 1
        self._introduced = False
        self._apply()
        self._warn_of_another()

    def _facts(self) -> Facts:
        """Return what has to be the same on every replica."""
        controller = self._controller
        return {
            "class": NAME,
            "ensemble_lr_spread_ratio": self._spread,
            "model_sync_interval": self._interval,
            "auto_lr_warmup_steps": self._warmup,
            "enable_auto_lr": self._auto,
            "loss_scale": controller.loss_scale,
            "lr_of_lr": controller.lr_of_lr,
            "momentum_of_lr": controller.momentum,
            "seed": self._seed,
            "shared_gradients and what is averaged": self._ensemble.average_state,
            "optimizer": type(self.optimizer).__name__,
            "schedule": [self.total_steps, self._anneal_func_type, self._schedule_phases],
            "rates of the schedule": [
                [group[key] for key in ("initial_lr", "max_lr", "min_lr")]
                for group in self.optimizer.param_groups
            ],
            "state of the controller": self._base.state_dict(),
        }


def parsed_step(entries: Entries, total_steps: int) -> int:
    """Return the steps that a state has behind it, of a run of as many steps as this one."""
    saved = entries.integer("total_steps", low=1)
    if saved != total_steps:
        entries.refuse(
            "total_steps",
            saved,
            f"must be {total_steps}, the number of steps of this run",
            f"make the scheduler with total_steps={saved}",
        )
    return entries.integer("last_epoch", 0, total_steps)


def parsed_rates(entries: Entries, groups: int) -> BaseRates:
    """Return the base rates of a state of so many parameter groups."""
    return BaseRates(
        values=entries.optional(
            "base_lrs", entries.numbers, length=groups, above=0.0, high=LARGEST_RATE
        ),
        velocities=entries.numbers("velocities", groups, -LARGEST_RATE, LARGEST_RATE),
        acted_at=entries.integer("acted_at"),
    )


def parsed_phases(entries: Entries, scheduler: OneCycleLR) -> dict[str, Any]:
    """Return the attributes of OneCycleLR that are the schedule's shape, from a state."""
    cycle = entries.boolean("cycle_momentum")
    if cycle and not all("max_momentum" in group for group in scheduler.optimizer.param_groups):
        entries.refuse(
            "cycle_momentum",
            True,
            "needs momenta that this scheduler was made without",
            "make the scheduler with cycle_momentum=True",
        )
    phases = []
    previous = -1.0
    for phase in entries.rows("_schedule_phases"):
        end = phase.number("end_step", previous, scheduler.total_steps)
        rates = {key: phase.text(key, _RATES) for key in ("start_lr", "end_lr")}
        momenta = {key: phase.text(key, _MOMENTA) for key in ("start_momentum", "end_momentum")}
        phases.append({"end_step": end, **rates, **momenta})
        previous = end
    if len(phases) not in (2, 3) or previous != scheduler.total_steps - 1:
        entries.refuse(
            "_schedule_phases",
            phases,
            "must be 2 or 3 phases that end with the last step",
        )
    return {
        "cycle_momentum": cycle,
        "_schedule_phases": phases,
        "_anneal_func_type": entries.text("_anneal_func_type", ("cos", "linear")),
    }

"""The user's learning rate schedule, run on the rates that it finds in the optimizer.

Whoever scales the rates for a replica lends the scheduler the unscaled ones for the time of
its step (`replica_values`). So it may compute the next rate from the last, as torch's chainable
schedulers do, and other schedulers may stand beside it. Where nothing is scaled this is the
wrapped scheduler's own step and nothing else.
"""

import copy
from collections.abc import Callable
from functools import cached_property
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, ReduceLROnPlateau

from ...state import LARGEST_RATE, Entries
from ..ensemble.group_values import set_rates
from .held_schedule import HeldSchedule
from .schedule_peak import peak_factors
from .scheduler_state import parsed_scheduler_state

Schedule = LRScheduler | ReduceLROnPlateau | Callable[[int], float]


class WrappedSchedule:
    """A scheduler, a callable of the step, or constant rates.

    Args:
        optimizer: whose `lr` the schedule is for.
        scheduler: see `Explorer`.

    Attributes:
        groups: the schedule of each parameter group, as of the last `track` or `advance`.
        needs_a_loss: whether the scheduler goes by the loss.
    """

    def __init__(self, optimizer: Optimizer, scheduler: Schedule | None) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler
        self.needs_a_loss = isinstance(scheduler, ReduceLROnPlateau)
        self._initial = _rates(optimizer)
        if self._is_plain_callable():
            self._set_factor(0)
        rates = [float(rate) for rate in _rates(optimizer)]
        self.groups = [HeldSchedule(rate, rate) for rate in rates]
        self._peaks: list[float | Tensor] = list(rates)

    @property
    def name(self) -> str:
        """What kind of schedule it is."""
        return "callable" if self._is_plain_callable() else type(self._scheduler).__name__

    @property
    def base_lrs(self) -> list[float | Tensor]:
        """The wrapped scheduler's own; else the rates that the optimizer came with."""
        own = getattr(self._scheduler, "base_lrs", None)
        if own is None and isinstance(self._scheduler, LRScheduler):
            # SequentialLR and ChainedScheduler: those in them have changed the rates by now.
            groups = self._optimizer.param_groups
            own = [group.get("initial_lr", group["lr"]) for group in groups]
        return own or list(self._initial)

    @property
    def last_epoch(self) -> int | None:
        """The wrapped scheduler's own count; None where it has none."""
        return getattr(self._scheduler, "last_epoch", None)

    @property
    def written_rates(self) -> list[float]:
        """The rate of each group that the user wrote: `max_lr` where there is one, or `lr`."""
        if isinstance(self._scheduler, CyclicLR):
            return [float(rate) for rate in self._scheduler.max_lrs]
        pairs = zip(self._optimizer.param_groups, self.base_lrs, strict=False)
        return [float(group.get("max_lr", base)) for group, base in pairs]

    @property
    def peak_rates(self) -> list[float]:
        """The schedule's highest rate for each group, s*, as far as it is known.

        That is the one written, and times a callable's largest factor.
        """
        # A callable's factor is that of a group that was added later too.
        factors = chain(self._peak_factors, repeat(self._peak_factors[-1]))
        pairs = zip(self.written_rates, factors, strict=False)
        return [written * factor for written, factor in pairs]

    @cached_property
    def _peak_factors(self) -> list[float]:
        return peak_factors(self._scheduler, len(self._optimizer.param_groups))

    def _is_plain_callable(self) -> bool:
        known = isinstance(self._scheduler, LRScheduler | ReduceLROnPlateau)
        return self._scheduler is not None and not known

    def _set_factor(self, step: int) -> None:
        assert callable(self._scheduler)
        factor = float(self._scheduler(step))
        groups = self._optimizer.param_groups
        # A group that was added later brings its own rate.
        self._initial += _rates(self._optimizer)[len(self._initial) :]
        for group, initial in zip(groups, self._initial, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(factor * initial)
            else:
                group["lr"] = factor * float(initial)

    def step(self, step: int, plateau: float | None = None) -> None:
        """Go on to optimizer step `step` (from 0), from the rates in the optimizer. Local.

        Args:
            step: the step that comes next.
            plateau: the loss for ReduceLROnPlateau; None where it is not to be stepped.
        """
        scheduler = self._scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            if plateau is not None:
                scheduler.step(plateau)
        elif isinstance(scheduler, LRScheduler):
            scheduler.step()
        elif scheduler is not None:
            self._set_factor(step)

    def track(self) -> None:
        """Remember the highest rates while nothing is scaled, without waiting for a device."""
        for k, rate in enumerate(_rates(self._optimizer)[: len(self._peaks)]):
            peak = self._peaks[k]
            if isinstance(rate, Tensor):
                peak = torch.as_tensor(peak, dtype=rate.dtype, device=rate.device)
                self._peaks[k] = torch.maximum(peak, rate)
            else:
                self._peaks[k] = max(float(peak), rate)

    def read(self) -> None:
        """Bring `groups` up to the rates that are in the optimizer, unscaled ones."""
        rates = [float(rate) for rate in _rates(self._optimizer)]
        for held, rate, peak in zip(self.groups, rates, self._peaks, strict=False):
            held.advance(rate)
            held.highest = max(held.highest, float(peak))

    def begin_search(self) -> None:
        """Hold the schedule's highest rates, until `end_search`; see `HeldSchedule`.

        Those that a state has brought along stay.
        """
        for held, peak in zip(self.groups, self.peak_rates, strict=True):
            if held.peak is None:
                held.peak = held.written = peak

    def end_search(self) -> None:
        """Follow the schedule from now on."""
        for held in self.groups:
            held.peak = None

    def last_lr(self) -> list[float | Tensor]:
        """Return the rates that the wrapped scheduler set last, as it gives them."""
        if isinstance(self._scheduler, LRScheduler):
            return self._scheduler.get_last_lr()
        return _rates(self._optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers, and the wrapped scheduler's own state."""
        save = getattr(self._scheduler, "state_dict", None)
        return {
            "scheduler": self.name,
            "groups": [held.state_dict() for held in self.groups],
            "wrapped": None if save is None else save(),
        }

    def own_state(self) -> dict[str, Any] | None:
        """Return the wrapped scheduler's own state; None where it has none."""
        return self.state_dict()["wrapped"]

    def parsed(self, entries: Entries) -> tuple[list[HeldSchedule], Any]:
        """Return what `assign` takes, from what `state_dict` returned. Changes nothing.

        Raises:
            ValueError: if it is damaged, or of another scheduler.
        """
        found = entries.items("groups")
        if len(found) != len(self.groups):
            entries.refuse(
                "groups",
                f"{len(found)} parameter groups",
                f"must be of {len(self.groups)} parameter groups",
                "make the optimizer as it was when the state was saved",
            )
        saved = entries.text("scheduler")
        if saved != self.name:
            entries.refuse(
                "scheduler",
                saved,
                f"must be {self.name}, the scheduler wrapped here",
                "wrap the scheduler that was wrapped when the state was saved",
            )
        groups = [HeldSchedule.parsed(row) for row in entries.rows("groups")]
        wrapped = entries.raw("wrapped")
        if wrapped is not None or self.own_state() is not None:
            rates = [held.now for held in groups]
            wrapped = self.parsed_own(entries.entries("wrapped"), wrapped, rates)
        return groups, wrapped

    def parsed_own(self, entries: Entries, state: Any, rates: list[float]) -> Any:
        """Return a copy of a state of the wrapped scheduler itself, once it has been tried."""
        scheduler, optimizer = self._scheduler, self._optimizer
        if self._is_plain_callable():
            return copy.deepcopy(state)
        return parsed_scheduler_state(entries, state, scheduler, optimizer, rates)

    def rates_of(self, entries: Entries, state: Any) -> list[float]:
        """Return the rates of a state of the wrapped scheduler itself, where it has them."""
        rates = [float(rate) for rate in _rates(self._optimizer)]
        if self.own_state() is None:
            entries.refuse(
                "",
                state,
                "is of a scheduler, and none is wrapped here",
                "give Explorer the scheduler that the state is of",
            )
        if entries.has("_last_lr"):
            last = entries.items("_last_lr", len(rates))
            numbers = [rate.item() if isinstance(rate, Tensor) else rate for rate in last]
            plain = Entries({"_last_lr": numbers}, "Explorer")
            rates = plain.numbers("_last_lr", low=0, high=LARGEST_RATE)
        return rates

    def steps_of(self, entries: Entries, state: Any) -> int:
        """Return the steps that a state of the wrapped scheduler itself has behind it."""
        if not entries.has("last_epoch") and entries.has("_schedulers"):
            # ChainedScheduler counts in its parts.
            entries = next(entries.rows("_schedulers"))
        return entries.integer("last_epoch")

    def begin(self, rates: list[float]) -> None:
        """Go on at these rates, as if they had been reached here."""
        for k, peak in enumerate(self.peak_rates):
            self.groups[k] = HeldSchedule(rates[k], max(rates[k], peak))
        self._peaks = [held.highest for held in self.groups]
        set_rates(self._optimizer, rates)

    def assign(self, parsed: tuple[list[HeldSchedule], Any]) -> None:
        """Go on from what `parsed` returned, and set its unscaled rates."""
        groups, wrapped = parsed
        self.assign_own(wrapped)
        self.groups = groups
        self._peaks = [held.highest for held in groups]
        set_rates(self._optimizer, [held.now for held in groups])

    def assign_own(self, wrapped: Any) -> None:
        """Go on from a state of the wrapped scheduler itself."""
        load = getattr(self._scheduler, "load_state_dict", None)
        if load is not None and wrapped is not None:
            load(wrapped)


def _rates(optimizer: Optimizer) -> list[float | Tensor]:
    """Return the rates in the optimizer; tensors as copies."""
    rates = [group["lr"] for group in optimizer.param_groups]
    return [rate.clone() if isinstance(rate, Tensor) else rate for rate in rates]

"""The user's learning rate schedule, run as if it were alone.

Before each of its steps the wrapped scheduler finds the rates that it set itself, not the
scaled ones that a replica trains with. So it may compute the next rate from the last, as
torch's closed-loop schedulers do.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .group_values import set_rates
from .held_schedule import HeldSchedule

Schedule = LRScheduler | ReduceLROnPlateau | Callable[[int], float]


class WrappedSchedule:
    """A scheduler, a callable of the step, or constant rates.

    Args:
        optimizer: whose `lr` the schedule is for.
        scheduler: see `Explorer`.

    Attributes:
        groups: the schedule of each parameter group.
    """

    def __init__(self, optimizer: Optimizer, scheduler: Schedule | None) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._initial = rates
        if self._is_plain_callable():
            rates = [self._factor(0) * rate for rate in rates]
            set_rates(optimizer, rates)
        self.groups = [HeldSchedule(rate, rate) for rate in rates]

    @property
    def name(self) -> str:
        """What kind of schedule it is."""
        return "callable" if self._is_plain_callable() else type(self._scheduler).__name__

    @property
    def needs_a_loss(self) -> bool:
        """Whether the scheduler goes by the loss."""
        return isinstance(self._scheduler, ReduceLROnPlateau)

    def _is_plain_callable(self) -> bool:
        known = isinstance(self._scheduler, LRScheduler | ReduceLROnPlateau)
        return self._scheduler is not None and not known

    def _factor(self, step: int) -> float:
        assert callable(self._scheduler)
        return float(self._scheduler(step))

    def step(self, step: int, plateau: float | None) -> None:
        """Go on to optimizer step `step` (from 0), and set its unscaled rates. Local.

        Args:
            step: the step that comes next.
            plateau: the loss for ReduceLROnPlateau; None where it is not to be stepped.
        """
        scheduler = self._scheduler
        if scheduler is None:
            return
        if self._is_plain_callable():
            factor = self._factor(step)
            self._set([factor * rate for rate in self._initial])
            return
        groups = self._optimizer.param_groups
        in_effect = [group["lr"] for group in groups]
        # As floats: a tensor would have to be read back from the device.
        for group, held in zip(groups, self.groups, strict=True):
            group["lr"] = held.now
        if isinstance(scheduler, ReduceLROnPlateau):
            if plateau is not None:
                scheduler.step(plateau)
        elif isinstance(scheduler, LRScheduler):
            scheduler.step()
        rates = [float(group["lr"]) for group in groups]
        for group, old, rate in zip(groups, in_effect, rates, strict=True):
            group["lr"] = old if isinstance(old, Tensor) else rate
        self._set(rates)

    def _set(self, rates: list[float]) -> None:
        for held, rate in zip(self.groups, rates, strict=True):
            held.advance(rate)
        set_rates(self._optimizer, rates)

    def end_search(self) -> None:
        """Hold the schedule where it is now; see `HeldSchedule`."""
        for held in self.groups:
            held.end_search()

    def resume_search(self) -> None:
        """Follow the schedule as it is again."""
        for held in self.groups:
            held.resume_search()

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers, and the wrapped scheduler's own state."""
        save = getattr(self._scheduler, "state_dict", None)
        return {
            "scheduler": self.name,
            "groups": [held.state_dict() for held in self.groups],
            "wrapped": None if save is None else save(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, and set its unscaled rates."""
        load = getattr(self._scheduler, "load_state_dict", None)
        if load is not None and state["wrapped"] is not None:
            before = self.state_dict()["wrapped"]
            try:
                load(state["wrapped"])
            except Exception:
                load(before)
                raise
        self.groups = [HeldSchedule(**held) for held in state["groups"]]
        set_rates(self._optimizer, [held.now for held in self.groups])

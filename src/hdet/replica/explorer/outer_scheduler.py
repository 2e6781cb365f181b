"""A scheduler around another one, with all that torch and its users expect of a scheduler.

It is an `LRScheduler`, and answers for the schedule that it wraps. torch's own constructor and
step are not run: the wrapped scheduler has run its own.
"""

from typing import NoReturn

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from ...errors import where
from .wrapped_schedule import WrappedSchedule


class OuterScheduler(LRScheduler):
    """What `Explorer` shows as an `LRScheduler`."""

    _schedule: WrappedSchedule
    _step: int

    @property
    def last_epoch(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The wrapped scheduler's count of steps; this one's own where it has none."""
        own = self._schedule.last_epoch
        return self._step if own is None else own

    @last_epoch.setter
    def last_epoch(self, _: int) -> None:
        self._refuse_to_jump()

    @property
    def base_lrs(self) -> list[float | Tensor]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The rates that the schedule started from."""
        return self._schedule.base_lrs

    @property
    def _last_lr(self) -> list[float | Tensor]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.get_last_lr()

    @property
    def _step_count(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._step + 1

    def get_lr(self) -> list[float | Tensor]:
        """Return this replica's rates, as `get_last_lr` does."""
        return self.get_last_lr()

    def _initial_step(self) -> None:
        self._refuse_to_jump()

    def _update_lr(self, epoch: int | None = None) -> None:
        self._refuse_to_jump()

    def _refuse_to_jump(self) -> NoReturn:
        name = type(self).__name__
        raise RuntimeError(
            f"{where()}`{name}` cannot be a part of SequentialLR, which sets its steps back. "
            f"Wrap the whole schedule: {name}(optimizer, SequentialLR(optimizer, ...))."
        )

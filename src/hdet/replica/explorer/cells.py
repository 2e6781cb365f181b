"""Where an explored value lives, and whether somebody else has written there.

Between two of our writes a learning rate may be changed by a second scheduler or by the user's
loop. A number is compared with what was written. A tensor on a device is not read back for it:
its version, which every write in place counts up, tells.
"""

from typing import Any

import torch
from torch import Tensor

from .dimensions import Dimension
from .held_schedule import HeldSchedule


class DimensionCell:
    """An entry of a parameter group, or an attribute.

    Args:
        dimension: what is explored; not a learning rate.

    Attributes:
        own: this replica's value.
        written: what was written last.
    """

    def __init__(self, dimension: Dimension) -> None:
        self._dimension = dimension
        self.own = self.written = dimension.value

    def others_wrote(self) -> float | None:
        """Return what somebody else has put into place, once; None if nobody did."""
        found, written = self._dimension.read(), self.written
        self.written = found
        return None if found == written else found

    def write(self, value: float) -> None:
        """Put a value into place."""
        if value != self.written or self._dimension.read() != value:
            self._dimension.write(value)
        self.written = value

    def read(self) -> float:
        """Return what is in place."""
        return self._dimension.read()


class RateCell:
    """The learning rate of a parameter group: a number, or a tensor that stays the same one.

    The group is given to each call, since loading an optimizer's state replaces it.

    Args:
        index: of the group.
        held: its schedule.

    Attributes:
        factor: this replica's rate as a multiple of the schedule, until the next sync.
        written: what was written last.
        tensor: what holds the rate; None where it is a number.
    """

    __slots__ = ("_version", "factor", "held", "index", "tensor", "written")

    def __init__(self, index: int, held: HeldSchedule) -> None:
        self.index, self.held = index, held
        self.factor = 1.0
        self.written = 0.0
        self.tensor: Tensor | None = None
        self._version = -1

    def others_wrote(self, group: dict[str, Any]) -> float | None:
        """Return what somebody else has put into place, once; None if nobody did."""
        rate, written = group["lr"], self.written
        if not isinstance(rate, Tensor):
            self.written = float(rate)
            return None if rate == written else self.written
        if rate is self.tensor and rate._version == self._version:
            return None
        self.tensor, self._version = rate, rate._version
        found = float(rate)
        if found == torch.tensor(written, dtype=rate.dtype).item():
            return None
        self.written = found
        return found

    def write(self, group: dict[str, Any], value: float) -> None:
        """Put a rate into place."""
        self._find_tensor(group)
        self._write(group, value)

    def lend(self, group: dict[str, Any]) -> None:
        """Put the unscaled rate into place, as a number: it is read back without waiting."""
        self._find_tensor(group)
        group["lr"] = self.held.now

    def take_back(self, group: dict[str, Any]) -> None:
        """Take over what others have made of it, and put this replica's rate into place."""
        self.held.advance(float(group["lr"]))
        self._write(group, self.factor * self.held.value)

    def _find_tensor(self, group: dict[str, Any]) -> None:
        rate = group["lr"] if isinstance(group["lr"], Tensor) else None
        if rate is not self.tensor:
            self.tensor, self._version = rate, -1

    def _write(self, group: dict[str, Any], value: float) -> None:
        tensor = self.tensor
        group["lr"] = value if tensor is None else tensor
        if tensor is not None and (value != self.written or tensor._version != self._version):
            tensor.fill_(value)
            self._version = tensor._version
        self.written = value

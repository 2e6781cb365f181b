"""Where an explored value lives, and whether somebody else has written there.

Between two of our writes a learning rate may be changed by a second scheduler or by the user's
loop. A number is compared with what was written. A tensor on a device is not read back for it:
its version, which every write in place counts up, tells.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .dimensions import Dimension


class DimensionCell:
    """An entry of a parameter group, or an attribute.

    Args:
        dimension: what is explored; not a learning rate.

    Attributes:
        written: what was written last.
    """

    def __init__(self, dimension: Dimension) -> None:
        self._dimension = dimension
        self.written = dimension.value

    def others_wrote(self) -> float | None:
        """Return what somebody else has put into place; None if nobody did."""
        found = self._dimension.read()
        return None if found == self.written else found

    def write(self, value: float) -> None:
        """Put a replica's value into place."""
        if value != self.written or self._dimension.read() != value:
            self._dimension.write(value)
        self.written = value

    def lend(self, value: float) -> None:
        """Put the unscaled value into place, for others to change."""
        self.write(value)

    def take_back(self) -> float:
        """Return what they have made of it."""
        return self._dimension.read()


class RateCell:
    """The learning rate of a parameter group: a number, or a tensor that stays the same one.

    Args:
        optimizer: whose group it is.
        index: of the group.

    Attributes:
        written: what was written last.
    """

    def __init__(self, optimizer: Optimizer, index: int) -> None:
        self._optimizer, self._index = optimizer, index
        self._tensor: Tensor | None = None
        self._version = -1
        self.written = 0.0

    @property
    def _group(self) -> dict[str, Any]:
        return self._optimizer.param_groups[self._index]

    def others_wrote(self) -> float | None:
        """Return what somebody else has put into place; None if nobody did."""
        rate = self._group["lr"]
        if not isinstance(rate, Tensor):
            return None if rate == self.written else float(rate)
        if rate is self._tensor and rate._version == self._version:
            return None
        found = float(rate)
        return None if found == torch.tensor(self.written, dtype=rate.dtype).item() else found

    def write(self, value: float) -> None:
        """Put a replica's rate into place."""
        rate = self._group["lr"]
        if isinstance(rate, Tensor):
            rate.fill_(value)
            self._tensor, self._version = rate, rate._version
        else:
            self._group["lr"] = value
        self.written = value

    def lend(self, value: float) -> None:
        """Put the unscaled rate into place, as a number: it is read back without waiting."""
        rate = self._group["lr"]
        self._tensor = rate if isinstance(rate, Tensor) else None
        self._group["lr"] = value

    def take_back(self) -> float:
        """Return what others have made of it, and put the tensor back in its place."""
        value = float(self._group["lr"])
        if self._tensor is not None:
            self._group["lr"] = self._tensor
        return value

"""The losses of one interval, kept where they were computed.

A training step must not wait for the device, so a loss is added to a sum on its own
device and read once, at the sync. HDET (arXiv 2604.24708), equation (4): L_r is the mean
of what replica r was given since the last sync.
"""

import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import where


class Losses(NamedTuple):
    """The losses of one replica: sum and number, and of those not from a checkpoint."""

    total: float
    number: float
    fresh_total: float
    fresh_number: float


class LossMeter:
    """Sum and number of the losses given since the last sync. Local.

    A sum that a checkpoint brought back is gone on with, in the same order of additions,
    so that a resumed run is the same to the last bit. What came after is summed beside it:
    where all ranks load the copy that rank 0 wrote, only rank 0 has the first part, and
    the means must run over the same steps on all of them (`interval_means`).
    """

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._count = 0
        self._fresh_sum: Tensor | float = 0.0
        self._restored_count = 0
        self.keep()

    def observe(self, loss: Tensor | float) -> None:
        """Add one loss, without waiting for its device.

        Args:
            loss: a number, or a tensor with one element on any device.

        Raises:
            ValueError: if a tensor has more or fewer elements, or it is an integer, which
                would be a number of steps or epochs taken for a loss.
        """
        if isinstance(loss, Tensor):
            is_float = loss.is_floating_point()
        else:
            is_float = hasattr(loss, "__float__") and not isinstance(loss, numbers.Integral)
        if not is_float:
            what = f"a tensor of {loss.dtype}" if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(
                f"{where()}A loss is a float, and {what} was given: `step(epoch)` is not how "
                f"this scheduler is called. Give this replica's own training loss, or nothing."
            )
        if isinstance(loss, Tensor):
            loss = _scalar(loss)
            if not isinstance(self._sum, Tensor):
                # MPS has no float64; elsewhere it keeps a long sum exact enough, and adding
                # any other dtype to it needs no conversion first: this runs at every step.
                wide = torch.float32 if loss.device.type == "mps" else torch.float64
                self._sum = torch.full((), self._sum, dtype=wide, device=loss.device)
        else:
            loss = float(loss)
        self._sum = self._sum + loss
        self._count += 1
        if self._restored_count:
            if isinstance(self._sum, Tensor) and isinstance(loss, Tensor):
                loss = loss.to(self._sum.dtype)
            self._fresh_sum = self._fresh_sum + loss

    def row(self, device: torch.device) -> Tensor:
        """Return the entries of `Losses`, float64 on `device`."""
        fresh = self._fresh_sum if self._restored_count else self._sum
        numbers = (self._sum, self._count, fresh, self._count - self._restored_count)
        return torch.stack(
            [
                torch.as_tensor(n, dtype=torch.float64, device=device).reshape(())
                for n in numbers
            ]
        )

    def keep(self) -> None:
        """Take all losses so far for good: the step that they belong to has taken place."""
        # Sums are never changed in place, so that these are as good as copies.
        self._kept = (self._sum, self._count, self._fresh_sum)

    def drop(self) -> None:
        """Forget the losses since `keep`: the step that they belong to was skipped."""
        self._sum, self._count, self._fresh_sum = self._kept

    def reset(self) -> None:
        """Begin a new interval."""
        self.__init__()

    def sums(self) -> list[float]:
        """Return sum and count of the interval so far; waits for the device."""
        return [float(self._sum), self._count]

    def restore(self, total: float, count: int) -> None:
        """Go on with the interval of a checkpoint."""
        self.reset()
        self._sum, self._count, self._restored_count = total, count, count
        self.keep()


def _scalar(loss: Tensor) -> Tensor:
    """Return `loss` without its graph and its dimensions of size 1."""
    if loss.numel() != 1:
        raise ValueError(
            f"{where()}`loss` must have exactly one element, and has shape "
            f"{tuple(loss.shape)}: give its mean, `loss.mean()`."
        )
    return loss.detach() if loss.dim() == 0 else loss.detach().reshape(())


def interval_means(replicas: Sequence[Losses]) -> list[float]:
    """Return L_r of every replica; NaN for one without a loss.

    What a checkpoint restored counts only where every replica has some of it, or none has.
    """
    use_all = len({own.number > own.fresh_number for own in replicas}) == 1
    pairs = [own[:2] if use_all else own[2:] for own in replicas]
    return [total / number if number else math.nan for total, number in pairs]

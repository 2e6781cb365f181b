"""One bucket on its way through an all-reduce: looked at, sent, received.

Source: HDET (arXiv 2604.24708), equation (3).
"""

# torch's multi-tensor operations have names with an underscore, and no other.
# pyright: reportPrivateImportUsage=false

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
import torch.distributed as dist
from torch import Tensor

from .buckets import RUN, Bucket, flat
from .groups import Replicas

_LARGE = 2**16  # mean size from which on tensors are looked at where they are, unpacked
Norms = tuple[list[Tensor], list[Tensor]]  # of own values minus mean, and of the mean


def new_transfer(bucket: Bucket, tensors: Sequence[Tensor], replicas: Replicas) -> "Transfer":
    """Return the transfer of a bucket.

    Args:
        bucket: its plan.
        tensors: those that the plan is for.
        replicas: between whom.
    """
    return (_InPlace if bucket.in_place else _Packed)(bucket, tensors, replicas)


class Transfer(ABC):
    """A bucket's tensors, replaced by their mean over the replicas.

    Attributes:
        buffer: the bucket's memory.
    """

    def __init__(self, bucket: Bucket, tensors: Sequence[Tensor], replicas: Replicas) -> None:
        self.buffer = bucket.buffer
        self._runs = bucket.runs
        self._replicas = replicas
        # NCCL divides on the way, which saves a pass over the tensors; gloo can't.
        self._divides = replicas.backend(self.buffer.device) in ("nccl", "xccl")
        self._filled = self._under_way = False
        # NCCL ends the process where it fails, unless it was made to wait: then nobody is left
        # to put old values back.
        waits = not self._divides or "TORCH_NCCL_BLOCKING_WAIT" in os.environ
        self._needs_buffer = waits or not bucket.in_place
        self._works: list[dist.Work | None] = []
        self._pieces = [
            [tensors[k] if span is None else _part(tensors[k], span) for k, span in run.pieces]
            for run in bucket.runs
        ]

    def norms(self, fill: bool) -> list[Tensor]:
        """Return norms of all values: not finite if any value is not.

        Args:
            fill: whether to fill the buffer for `send`, if that is cheap now.
        """
        large = self.buffer.numel() >= _LARGE * sum(map(len, self._pieces))
        if large and not (fill and self.buffer.device.type == "cpu"):
            pieces = [piece for run in self._pieces for piece in run]
            return list(torch._foreach_norm(pieces, 2, self.buffer.dtype))
        self._filled = fill
        return self._fill(look=True)

    def finite(self) -> bool:
        """Return whether each value is finite."""
        return all(bool(piece.isfinite().all()) for run in self._pieces for piece in run)

    def send(self, silent: bool, measure: bool) -> None:
        """Begin the all-reduce.

        Args:
            silent: whether this replica gives nothing.
            measure: whether its own values are needed in `receive`.
        """
        if not self._filled and (measure or self._needs_buffer):
            self._fill(look=False)
            self._filled = True
        wires = self._wires(measure)
        self._under_way = True
        if silent:
            torch._foreach_zero_(wires)
        op = dist.ReduceOp.AVG if self._divides else dist.ReduceOp.SUM
        for wire in wires:
            work = dist.all_reduce(wire, op, self._replicas.group, async_op=True)
            self._works.append(work)

    def receive(self, live: int, measure: bool) -> Norms:
        """Write the mean into the tensors, once it is here.

        Args:
            live: how many replicas have given their values.
            measure: whether to return norms whose squares add up to those of `Averaging.run`.
        """
        for work in self._works:
            if work is not None:
                work.wait()
        self._under_way = False
        return self._write(live / self._replicas.size if self._divides else live, measure)

    @abstractmethod
    def put_back(self) -> None:
        """Undo what a failed collective has left in the tensors."""

    @abstractmethod
    def _fill(self, look: bool) -> list[Tensor]:
        """Copy all pieces into the buffer; return norms if they are to be looked at."""

    @abstractmethod
    def _wires(self, measure: bool) -> list[Tensor]:
        """Return what the collectives reduce."""

    @abstractmethod
    def _write(self, divisor: float, measure: bool) -> Norms:
        """Divide, measure, and write the mean into the tensors."""

    def _share(self, tensor: Tensor) -> Tensor:
        """Return the part of the mean whose norm this replica takes: all have the same mean."""
        rank, size = self._replicas.rank, self._replicas.size
        count = tensor.numel()
        return tensor[count * rank // size : count * (rank + 1) // size]


class _InPlace(Transfer):
    """Large tensors, each reduced in its own memory; the buffer keeps their old values."""

    def _groups(self) -> Iterator[tuple[list[Tensor], list[Tensor], Tensor]]:
        """Yield pieces, their slots, and those as one tensor, to be worked on together."""
        wires, slots = self._wires(False), [run.part for run in self._runs]
        if self.buffer.device.type != "cpu":
            yield wires, slots, self.buffer
            return
        for wire, slot in zip(wires, slots, strict=True):
            for a, b in zip(wire.split(RUN), slot.split(RUN), strict=True):
                yield [a], [b], b

    def _fill(self, look: bool) -> list[Tensor]:
        norms = []
        for pieces, _, part in self._groups():
            torch.cat(pieces, out=part)
            if look:
                norms.append(torch.linalg.vector_norm(part))
        return norms

    def _wires(self, measure: bool) -> list[Tensor]:
        return [run[0] for run in self._pieces]

    def put_back(self) -> None:
        if not self._under_way or not self._filled:
            return
        for work in self._works:
            with suppress(Exception):
                if work is not None:
                    work.wait()
        for pieces, slots, _ in self._groups():
            torch._foreach_copy_(pieces, slots)

    def _write(self, divisor: float, measure: bool) -> Norms:
        gaps: list[Tensor] = []
        means: list[Tensor] = []
        if divisor != 1 or measure:
            for pieces, slots, part in self._groups():
                if divisor != 1:
                    torch._foreach_div_(pieces, divisor)
                if measure:
                    torch._foreach_sub_(slots, pieces)
                    gaps.append(torch.linalg.vector_norm(part))
                    means += torch._foreach_norm([self._share(piece) for piece in pieces])
        return gaps, means


class _Packed(Transfer):
    """Small tensors, and those of half precision, reduced in the buffer."""

    _own: Tensor | None = None

    def _fill(self, look: bool) -> list[Tensor]:
        norms = []
        for pieces, run in zip(self._pieces, self._runs, strict=True):
            torch._foreach_copy_(run.slots, pieces)
            if look:
                norms.append(torch.linalg.vector_norm(run.part))
        return norms

    def _wires(self, measure: bool) -> list[Tensor]:
        self._own = self.buffer.clone() if measure else None
        return [self.buffer]

    def put_back(self) -> None:
        """Nothing: the tensors are written once the mean is here."""

    def _write(self, divisor: float, measure: bool) -> Norms:
        gaps: list[Tensor] = []
        means: list[Tensor] = []
        start = 0
        for pieces, run in zip(self._pieces, self._runs, strict=True):
            if divisor != 1:
                run.part.div_(divisor)
            if self._own is not None:
                own = self._own[start : start + run.part.numel()]
                gaps.append(torch.linalg.vector_norm(own.sub_(run.part)))
                means.append(torch.linalg.vector_norm(self._share(run.part)))
                start += own.numel()
            torch._foreach_copy_(pieces, run.slots)
        self._own = None
        return gaps, means


def _part(tensor: Tensor, span: slice) -> Tensor:
    whole = flat(tensor)
    return whole if span.stop - span.start == whole.numel() else whole[span]

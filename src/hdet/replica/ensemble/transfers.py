"""One bucket on its way through an all-reduce: looked at, sent, received.

Source: HDET (arXiv 2604.24708), equation (3).
"""

# torch's multi-tensor operations have names with an underscore, and no other.
# pyright: reportPrivateImportUsage=false

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress

import torch
import torch.distributed as dist
from torch import Tensor

from .buckets import RUN, Bucket, flat
from .groups import Replicas

# From this mean size on tensors are looked at one by one; smaller ones are packed for it.
_LARGE = 2**16
# Elements of a row whose distance one block of a GPU takes.
_WIDTHS = (2048, 256)
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
        self._works: list[dist.Work | None] = []
        self._pieces = [
            [tensors[k] if span is None else _part(tensors[k], span) for k, span in run.pieces]
            for run in bucket.runs
        ]

    def sums(self, fill: bool) -> list[Tensor]:
        """Return sums of all values: not finite if any value is not.

        Args:
            fill: whether to fill the buffer for `send`, if that is cheap now.
        """
        large = self.buffer.numel() >= _LARGE * sum(map(len, self._pieces))
        if large and not (fill and self.buffer.device.type == "cpu"):
            wire = self.buffer.dtype
            return [piece.sum(dtype=wire) for run in self._pieces for piece in run]
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
        if not self._filled:
            self._fill(look=False)
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
        """Copy all pieces into the buffer; return their sums if they are to be looked at."""

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

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(run[0], r.part) for run, r in zip(self._pieces, self._runs, strict=True)]

    def _fill(self, look: bool) -> list[Tensor]:
        sums = []
        for piece, slot in self._pairs():
            for a, b in _in_cache(piece, slot):
                b.copy_(a)
                if look:
                    sums.append(b.sum())
        return sums

    def _wires(self, measure: bool) -> list[Tensor]:
        return [run[0] for run in self._pieces]

    def put_back(self) -> None:
        if not self._under_way:
            return
        for work in self._works:
            with suppress(Exception):
                if work is not None:
                    work.wait()
        for piece, slot in self._pairs():
            piece.copy_(slot)

    def _write(self, divisor: float, measure: bool) -> Norms:
        gaps: list[Tensor] = []
        means: list[Tensor] = []
        for piece, slot in self._pairs():
            for mean, own in _in_cache(piece, slot):
                if divisor != 1:
                    mean.div_(divisor)
                if measure:
                    gaps.append(_distance(own, mean))
            if measure:
                means += _norms(self._share(piece))
        return gaps, means


class _Packed(Transfer):
    """Small tensors, and those of half precision, reduced in the buffer."""

    _own: Tensor | None = None

    def _fill(self, look: bool) -> list[Tensor]:
        sums = []
        for pieces, run in zip(self._pieces, self._runs, strict=True):
            torch._foreach_copy_(run.slots, pieces)
            if look:
                sums.append(run.part.sum())
        return sums

    def _wires(self, measure: bool) -> list[Tensor]:
        self._own = self.buffer.clone() if measure else None
        return [self.buffer]

    def put_back(self) -> None:
        """Nothing: the tensors are written once the mean is here."""

    def _write(self, divisor: float, measure: bool) -> Norms:
        gaps: list[Tensor] = []
        start = 0
        for pieces, run in zip(self._pieces, self._runs, strict=True):
            if divisor != 1:
                run.part.div_(divisor)
            if self._own is not None:
                own = self._own[start : start + run.part.numel()]
                gaps.append(torch.linalg.vector_norm(own.sub_(run.part)))
                start += own.numel()
            torch._foreach_copy_(pieces, run.slots)
        means = _norms(self._share(self.buffer)) if measure else []
        self._own = None
        return gaps, means


def _part(tensor: Tensor, span: slice) -> Tensor:
    whole = flat(tensor)
    return whole if span.stop - span.start == whole.numel() else whole[span]


def _in_cache(a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return two tensors in runs that a core's cache holds, on a CPU."""
    if a.device.type != "cpu" or a.numel() <= RUN:
        return [(a, b)]
    return list(zip(a.split(RUN), b.split(RUN), strict=True))


def _norms(tensor: Tensor) -> list[Tensor]:
    """Return norms of parts: a float32 sum over more than a run would lose digits on a CPU."""
    return [torch.linalg.vector_norm(part) for part, _ in _in_cache(tensor, tensor)]


def _distance(own: Tensor, mean: Tensor) -> Tensor:
    """Return the norm of `own - mean`. What is in `own` is lost."""
    if own.device.type == "cuda":
        # `cdist` takes differences and their norm in one pass, and writes next to nothing.
        high, low = _WIDTHS
        for width in range(high, low, -1):
            if own.numel() % width == 0:
                a, b = own.view(-1, 1, width), mean.view(-1, 1, width)
                rows = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
                return torch.linalg.vector_norm(rows)
    return torch.linalg.vector_norm(own.sub_(mean))

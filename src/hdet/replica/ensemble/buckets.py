"""How tensors travel to be averaged: which of them together, and through what memory.

A tensor of at least a sixteenth of a bucket is reduced in its own memory, and a buffer keeps its
old values. Smaller ones are packed into a buffer, and so is half precision, which is summed in
float32. A plan depends on the tensors' layout alone and holds none of them: it is
kept for the next time, for as long as the first tensor lives.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ...errors import where
from .contents import layout_of, local_floats

# DDP's own bucket size: large enough to hide the latency of a collective.
BUCKET_BYTES = 25 * 2**20
# An accelerator also has to hide the host's time for each call.
ACCELERATOR_BUCKET_BYTES = 8 * BUCKET_BYTES
# Elements that are worked on together on a CPU: few enough to stay in a core's cache from one
# pass over them to the next. Elsewhere each call has a price, and a bucket is one run.
RUN = 2**18
_IN_PLACE = 16  # parts of a bucket: a tensor from one part on travels in its own memory
_HALF = (torch.float16, torch.bfloat16)


class Piece(NamedTuple):
    """A tensor of the list, or a span of its memory in order of address."""

    tensor: int
    span: slice | None


class Run(NamedTuple):
    """Pieces that are worked on together, their places in the buffer, and those as one."""

    pieces: list[Piece]
    slots: list[Tensor]
    part: Tensor


class Bucket(NamedTuple):
    """What is on the wire together, of one device and dtype.

    Attributes:
        in_place: whether each piece is reduced in its own memory, and is a run of its own;
            the buffer is for its old values. Else the pieces are packed into the buffer.
        buffer: as large as the pieces.
        runs: all pieces, in order.
    """

    in_place: bool
    buffer: Tensor
    runs: list[Run]


class Plan:
    """The buckets of a list of tensors, and the two buffers that they take turns to use.

    Args:
        tensors: dense floating-point tensors.
        bucket_bytes: size of a bucket; None for the device's default.

    Attributes:
        layout: a number that has to be the same on every replica.
        buckets: in the order in which they travel.

    Raises:
        ValueError: if a tensor has gaps, or elements that share memory.
    """

    def __init__(self, tensors: Sequence[Tensor], bucket_bytes: int | None) -> None:
        self.layout = hash(tuple(map(layout_of, tensors)))
        groups = list(_groups(tensors, bucket_bytes))
        sizes: dict[tuple[torch.device, int], int] = {}
        for turn, (pieces, _) in enumerate(groups):
            first = tensors[pieces[0].tensor]
            nbytes = wire_dtype(first.dtype).itemsize * sum(_numel(p, tensors) for p in pieces)
            key = (first.device, turn % 2)
            sizes[key] = max(sizes.get(key, 0), nbytes)
        self._storages = {
            key: torch.empty(size, dtype=torch.uint8, device=key[0])
            for key, size in sizes.items()
        }
        self.buckets = [
            _bucket(pieces, in_place, tensors, self._storages[device, turn % 2])
            for turn, (pieces, in_place) in enumerate(groups)
            for device in [tensors[pieces[0].tensor].device]
        ]

    def take_memory(self) -> None:
        """Have the buffers in memory, where `give_back` has freed it."""
        for storage in self._storages.values():
            if not storage.untyped_storage().nbytes():
                storage.untyped_storage().resize_(storage.numel())

    def give_back(self) -> None:
        """Leave the buffers' memory to others until the next time.

        Not on a CPU: fresh memory from the system costs more than the averaging itself there,
        page by page. CUDA has a caching allocator.
        """
        for storage in self._storages.values():
            if storage.device.type == "cuda":
                storage.untyped_storage().resize_(0)


class _Kept(NamedTuple):
    """A plan, and what it was made for."""

    mark: list
    floats: list[int] | None
    plan: Plan


# By the first tensor of the list. Nothing in a plan keeps a tensor alive.
_kept: "WeakIdKeyDictionary" = WeakIdKeyDictionary()


def planned(
    tensors: Iterable[Tensor], bucket_bytes: int | None = None
) -> tuple[list[Tensor], Plan]:
    """Return what of the tensors is averaged (`local_floats`), and the plan for it.

    The last plan serves again while the tensors, their memory and its layout are the same.
    """
    given = list(tensors)
    # This runs at every averaging. Lists of numbers are quick; a tuple for each tensor, such as
    # its shape, is not.
    columns = (id, Tensor.data_ptr, Tensor.numel, Tensor.is_contiguous, attrgetter("dtype"))
    mark = [bucket_bytes, *(list(map(column, given)) for column in columns)]
    kept = _kept.get(given[0]) if given else None
    if kept is not None and kept.mark == mark:
        floats = local_floats(given) if kept.floats is None else [given[k] for k in kept.floats]
        return floats, kept.plan
    floats = local_floats(given)
    plan = Plan(floats, bucket_bytes)
    if given:
        index_of = {id(t): k for k, t in enumerate(given)}
        chosen = [index_of[id(t)] for t in floats if id(t) in index_of]
        # Shards, and real views of complex tensors, are made anew each time.
        found = chosen if len(chosen) == len(floats) else None
        _kept[given[0]] = _Kept(mark, found, plan)
    return floats, plan


def wire_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which tensors of a dtype are summed."""
    return torch.float32 if dtype in _HALF else dtype


def flat(tensor: Tensor) -> Tensor:
    """Return the tensor's memory as one dimension, a view, in order of address.

    Raises:
        ValueError: if its elements overlap or leave gaps.
    """
    if tensor.is_contiguous():
        return tensor if tensor.dim() == 1 else tensor.detach().view(-1)
    tensor = tensor.detach()
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    dense = tensor.permute(order)
    if not dense.is_contiguous():
        raise ValueError(
            f"{where()}`average_` got a tensor of shape {tuple(tensor.shape)} and strides "
            f"{tensor.stride()}, whose elements overlap or leave gaps in memory: give the "
            f"tensor that it is a view of."
        )
    return dense.view(-1)


def _groups(
    tensors: Sequence[Tensor], bucket_bytes: int | None
) -> Iterator[tuple[list[Piece], bool]]:
    """Yield the pieces of each bucket, and whether they are reduced in place."""
    kinds: dict[tuple[torch.device, torch.dtype, bool], list[int]] = {}
    for index, tensor in enumerate(tensors):
        flat(tensor)
        in_place = tensor.dtype not in _HALF and _IN_PLACE * tensor.numel() >= _cap(
            tensor, bucket_bytes
        )
        kinds.setdefault((tensor.device, tensor.dtype, in_place), []).append(index)
    for (_, _, in_place), indices in kinds.items():
        cap = _cap(tensors[indices[0]], bucket_bytes)
        longest = cap if in_place else min(cap, _run(tensors[indices[0]]))
        pieces: list[Piece] = []
        room = cap
        for index in indices:
            size = tensors[index].numel()
            whole = not in_place and size <= longest
            for piece in [Piece(index, None)] if whole else _cut(index, 0, size, longest):
                taken = _numel(piece, tensors)
                if taken > room:
                    yield pieces, in_place
                    pieces, room = [], cap
                pieces.append(piece)
                room -= taken
        yield pieces, in_place


def _cap(tensor: Tensor, bucket_bytes: int | None) -> int:
    """Return how many elements of a tensor's kind a bucket holds."""
    if bucket_bytes is None:
        on_cpu = tensor.device.type == "cpu"
        bucket_bytes = BUCKET_BYTES if on_cpu else ACCELERATOR_BUCKET_BYTES
    return bucket_bytes // wire_dtype(tensor.dtype).itemsize


def _run(tensor: Tensor) -> int:
    return RUN if tensor.device.type == "cpu" else 2**62


def _cut(index: int, start: int, stop: int, longest: int) -> list[Piece]:
    """Return a span of a tensor in equal pieces, as few as may be."""
    size = stop - start
    count = -(-size // longest)
    bounds = [start + size * k // count for k in range(count + 1)]
    return [Piece(index, slice(a, b)) for a, b in zip(bounds, bounds[1:], strict=False)]


def _numel(piece: Piece, tensors: Sequence[Tensor]) -> int:
    span = piece.span
    return tensors[piece.tensor].numel() if span is None else span.stop - span.start


def _bucket(
    pieces: list[Piece], in_place: bool, tensors: Sequence[Tensor], storage: Tensor
) -> Bucket:
    """Lay the pieces out in a buffer, one after the other."""
    first = tensors[pieces[0].tensor]
    wire, longest = wire_dtype(first.dtype), 0 if in_place else _run(first)
    nbytes = wire.itemsize * sum(_numel(p, tensors) for p in pieces)
    buffer = storage[:nbytes].view(wire)
    runs: list[Run] = []
    start = stop = 0
    held: list[Piece] = []
    slots: list[Tensor] = []
    for piece in pieces:
        size, tensor = _numel(piece, tensors), tensors[piece.tensor]
        if held and stop - start + size > longest:
            runs.append(Run(held, slots, buffer[start:stop]))
            start, held, slots = stop, [], []
        held.append(piece)
        slots.append(
            buffer[stop : stop + size]
            if piece.span is not None
            else buffer.as_strided(tensor.shape, tensor.stride(), stop)
        )
        stop += size
    runs.append(Run(held, slots, buffer[start:stop]))
    return Bucket(in_place, buffer, runs)

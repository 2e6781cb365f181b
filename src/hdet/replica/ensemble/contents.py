"""What is in a tensor, as far as averaging is concerned: its floats, and a digest of them."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_dtensor(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether a tensor is sharded.

    Its module takes a second to import, so it is not imported here: while nobody has, there is
    no DTensor.
    """
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def dtensors(tensors: Sequence[Tensor]) -> "list[DTensor]":
    """Return those that are sharded."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    found: list[Any] = [] if kind is None else [t for t in tensors if isinstance(t, kind)]
    return found


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's shard of a DTensor; a plain tensor as it is."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def local_floats(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return what is to be averaged: each tensor's local part, once, if it has floats.

    Complex tensors are seen as real ones; integers, booleans and empty tensors drop out, and
    so do the 8-bit floats of quantised weights, which have no arithmetic.
    """
    floats = []
    for tensor in {id(t): t for t in tensors}.values():
        local = local_part(tensor)
        if local.is_complex():
            local = torch.view_as_real(local)
        if local.is_floating_point() and local.itemsize > 1 and local.numel():
            floats.append(local)
    return floats


def layout_of(tensor: Tensor) -> tuple:
    """Return what has to be the same on every replica."""
    return tensor.shape, tensor.stride(), tensor.itemsize


def digest(tensor: Tensor) -> Tensor:
    """Return a number that is the same for the same bits, and hardly for others: an int64.

    Args:
        tensor: strided, real floating-point.
    """
    flat = tensor.detach().contiguous().view(-1)
    if flat.data_ptr() % 8:
        flat = flat.clone()
    # Two or four elements at a time: as quick as any sum, and exact in any order.
    step = max(8 // flat.itemsize, 1)
    whole = flat.numel() // step * step
    small = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.itemsize]
    found = flat[whole:].view(small).sum(dtype=torch.int64)
    if whole:
        found = found + flat[:whole].view(torch.int64).sum()
    # Folded to 32 bits, which pass unharmed through float64.
    return (found ^ (found >> 32)) & 0xFFFFFFFF

"""Flat update vectors: checks, and float64 arithmetic on one block at a time.

Hypergradients are inner products of vectors that nearly cancel, so sums are taken in float64,
but never on a float64 copy of a whole model.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import require

# 2**20 numbers take 8 MB in float64, which is small beside any model that has more than that.
_BLOCK = 1 << 20


def blocks(length: int) -> Iterator[slice]:
    """Yield the slices that split a vector of `length` entries into blocks."""
    return (slice(start, start + _BLOCK) for start in range(0, length, _BLOCK))


def flat(vector: Any, call: str, argument: str) -> Tensor:
    """Return a tensor or array as a detached one-dimensional tensor, a view where possible.

    Args:
        vector: tensor or array of any shape, of floating-point numbers.
        call: the public name that was called, for the error.
        argument: the argument's name, for the error.

    Raises:
        ValueError: if `vector` is empty or holds anything but floating-point numbers.
    """
    try:
        tensor = torch.as_tensor(vector).detach().reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`{call}({argument}=...)` must be one dense tensor or array of floating-point "
            f"numbers: got a {type(vector).__name__}. Concatenate the trainable parameters."
        ) from error
    if not tensor.is_floating_point() or tensor.numel() == 0:
        raise ValueError(
            f"`{call}({argument}=...)` must hold floating-point numbers: got "
            f"{tensor.numel()} of {tensor.dtype}. Concatenate the trainable parameters, and "
            f"leave integer buffers out."
        )
    return tensor


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the float64 inner product over the last dimension, on the vectors' device.

    Args:
        a: [..., n].
        b: [..., n] or [n], on the same device.

    Returns:
        [...] in float64.
    """
    total = torch.zeros(a.shape[:-1], dtype=torch.float64, device=a.device)
    for block in blocks(a.shape[-1]):
        total += (a[..., block].double() * b[..., block].double()).sum(-1)
    return total


def require_length(call: str, argument: str, vector: Tensor, length: int) -> None:
    """Raise a `ValueError` unless a flat vector has as many entries as the earlier ones."""
    remedy = "flatten the same parameters in the same order in every round"
    rule = f"must have {length} entries, as before"
    require(len(vector) == length, call, argument, len(vector), rule, remedy)


def require_finite(call: str, argument: str, value: float) -> None:
    """Raise a `ValueError` unless a number computed from an update is finite."""
    remedy = "leave out clients whose weights are not finite; nothing was changed"
    rule = "gives a product that is not finite"
    require(math.isfinite(value), call, argument, value, rule, remedy)

"""Inner products of updates, wherever they live and whatever their length.

Hypergradients are inner products of vectors that nearly cancel: the sum is taken in
float64, in pieces, so that no float64 copy of a whole model is ever made.
"""

from typing import Any

import torch

# 2**20 numbers are 8 MB in float64: small beside any model that needs pieces at all.
_PIECE = 1 << 20


def flat(vector: Any, call: str, argument: str) -> torch.Tensor:
    """Return a detached one-dimensional view of a tensor or array; copies only if it must.

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


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the float64 inner product over the last dimension, on the vectors' device.

    Args:
        a: [..., n].
        b: [..., n] or [n], on the same device.

    Returns:
        [...] in float64.
    """
    total = torch.zeros(a.shape[:-1], dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[-1], _PIECE):
        piece = slice(start, start + _PIECE)
        total += (a[..., piece].double() * b[..., piece].double()).sum(-1)
    return total

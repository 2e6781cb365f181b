"""Private random generators, each named by a key.

A library must not reseed its caller, and ranks must agree on what they draw without
talking. So every draw takes a fresh generator whose seed is a hash of what is drawn for:
(seed, sync index, name). Nothing advances, so there is no generator state to save.

torch loads with the first generator; a `digest`, all that other frameworks draw by, needs none.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def digest(seed: int, *key: int | str) -> bytes:
    """Return SHA-256 of (seed, *key), the same in every process. Local.

    Args:
        seed: the run's seed, any integer.
        *key: what is drawn for, such as a purpose, a sync index and a name.
    """
    return hashlib.sha256(repr((seed, *key)).encode()).digest()


def generator(
    seed: int, *key: int | str, device: "torch.device | str" = "cpu"
) -> "torch.Generator":
    """Return a new generator for `key`, the same in every process. Local.

    Args:
        seed: the run's seed, any integer.
        *key: what is drawn for, such as a purpose, a sync index and a name.
        device: where the generator draws.

    Returns:
        A generator seeded with 63 bits of SHA-256 of (seed, *key).
    """
    import torch

    number = int.from_bytes(digest(seed, *key)[:8], "big") >> 1
    return torch.Generator(device).manual_seed(number)


def unkeyed(seed: int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a new generator for a seed alone, where a seed stands for one draw only. Local.

    Args:
        seed: any integer that torch takes.
        device: where the generator draws.

    Returns:
        A generator seeded with `seed` itself.
    """
    import torch

    return torch.Generator(device).manual_seed(seed)

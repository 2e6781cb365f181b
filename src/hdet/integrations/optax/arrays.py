"""Trees of arrays in a checkpoint: as flat lists, checked against what is expected."""

from typing import Any

import jax
import jax.numpy as jnp

from ...state import Entries
from .replicas import is_float


def shapes(
    tree: Any, leading: tuple[int, ...] = (), *, wide: bool = False, loose: bool = False
) -> Any:
    """Return what arrays of a tree have to be.

    Args:
        tree: of arrays, or of what this returned.
        leading: axes before their own.
        wide: whether half precision is to be float32.
        loose: whether floats may have a wider type, as the moments of weights in half precision
            have after a step with gradients in float32.
    """

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        real = is_float(leaf)
        dtype = jnp.promote_types(leaf.dtype, jnp.float32) if wide and real else leaf.dtype
        weak = real and (loose or (isinstance(leaf, jax.ShapeDtypeStruct) and leaf.weak_type))
        return jax.ShapeDtypeStruct((*leading, *leaf.shape), dtype, weak_type=weak)

    return jax.tree.map(of, tree)


def read(entries: Entries, key: str, like: Any, sharding: Any) -> Any:
    """Return the tree of arrays that an entry is the flat list of.

    Args:
        entries: of a state.
        key: of the entry.
        like: what the arrays have to be, from `shapes`.
        sharding: where they are put; None for the default device.

    Raises:
        ValueError: if an array is missing, or of another shape or type.
    """
    wanted, structure = jax.tree.flatten(like)
    inside = entries.listed(key, len(wanted))
    found = [_array(inside, str(k), leaf, sharding) for k, leaf in enumerate(wanted)]
    return jax.tree.unflatten(structure, found)


def _array(entries: Entries, key: str, like: jax.ShapeDtypeStruct, sharding: Any) -> jax.Array:
    value = entries.raw(key)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    fits = dtype == like.dtype
    if like.weak_type and dtype is not None and jnp.issubdtype(dtype, jnp.floating):
        fits = jnp.promote_types(dtype, like.dtype) == dtype
    if shape != like.shape or not fits:
        entries.refuse(key, value, f"must be an array of shape {like.shape} and {like.dtype}")
    return jax.device_put(value, sharding)

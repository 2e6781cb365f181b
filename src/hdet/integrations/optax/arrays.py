"""Trees of arrays in a checkpoint: as flat lists, checked against what is expected."""

from typing import Any

import jax
import jax.numpy as jnp

from ...state import Entries


def shapes(tree: Any, leading: tuple[int, ...] = (), wide: bool = False) -> Any:
    """Return what arrays of a tree have to be.

    Args:
        tree: of arrays, or of what this returned.
        leading: axes before their own.
        wide: whether half precision is to be float32.
    """

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        half = wide and jnp.issubdtype(leaf.dtype, jnp.floating)
        dtype = jnp.promote_types(leaf.dtype, jnp.float32) if half else leaf.dtype
        return jax.ShapeDtypeStruct((*leading, *leaf.shape), dtype)

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
    if shape != like.shape or dtype != like.dtype:
        entries.refuse(key, value, f"must be an array of shape {like.shape} and {like.dtype}")
    return jax.device_put(value, sharding)

"""The replicas as a leading axis of arrays: on one device, or one on each device of a mesh.

What one replica does is written for it alone, and mapped over the axis: by `vmap`, or by
`shard_map`. Collectives inside name the axis. One replica alone has no such axis in its arrays:
an axis of length 1 makes XLA add in another order, and its run is to be the plain one.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "replicas"  # for the collectives of `vmap`; a mesh has a name of its own


class Replicas:
    """Maps functions and data to the replicas.

    Args:
        replicas: how many there are, all on one device; or a mesh of one axis.

    Attributes:
        size: N.
        axis: the axis's name inside a mapped function.
        where: how an array with the replicas' axis is laid out.
        everywhere: how an array without it is.
    """

    def __init__(self, replicas: int | Mesh) -> None:
        here: Any = jnp.zeros(()).sharding  # a device has to be named, or steps compile twice
        if replicas == 1:
            replicas = Mesh(np.asarray(list(here.device_set)), (AXIS,))
        if isinstance(replicas, Mesh):
            # `jax.make_mesh` gives axes explicit types, which would have to go on all arrays.
            mesh = Mesh(replicas.devices, replicas.axis_names)
            self._mesh, self.size, self.axis = mesh, mesh.size, str(mesh.axis_names[0])
            self.everywhere = NamedSharding(mesh, PartitionSpec())
            self.where = self.everywhere
            if self.size > 1:
                self.where = NamedSharding(mesh, PartitionSpec(self.axis))
        else:
            self._mesh, self.axis, self.size = None, AXIS, replicas
            self.where = self.everywhere = here
        self._spread = self.stacked(lambda tree: jax.tree.map(self._repeat, tree))

    def map(self, function: Callable[..., Any], common: int = 0) -> Callable[..., Any]:
        """Return the compiled function of all replicas.

        Args:
            function: what one replica does, without the leading axis.
            common: how many of the first arguments are the same for all, without an axis.
        """

        @functools.wraps(function)
        def mapped(*arguments: Any) -> Any:
            shared, own = arguments[:common], arguments[common:]
            if self._mesh is None:
                one = jax.vmap(lambda *a: function(*shared, *a), axis_name=self.axis)
                return one(*own)

            def block(*a: Any) -> Any:
                if self.size == 1:
                    return function(*a)
                return _stack_one(function(*a[:common], *map(_unstack_one, a[common:])))

            stacked, whole = self.where.spec, PartitionSpec()
            # Unchecked: a `scan` in the user's step would have to mark what varies.
            return jax.shard_map(
                block,
                mesh=self._mesh,
                in_specs=(whole,) * common + (stacked,) * len(own),
                out_specs=stacked,
                check_vma=False,
            )(*arguments)

        return jax.jit(mapped)

    def stacked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the compiled function, whose results have the leading axis."""
        return jax.jit(function, out_shardings=self.where)

    def whole(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the compiled function, whose results have none and are everywhere."""
        return jax.jit(function, out_shardings=self.everywhere)

    def spread(self, tree: Any) -> Any:
        """Return a tree of one replica, wherever it lies, with the leading axis."""
        return self._spread(self.common(tree))

    def common(self, tree: Any) -> Any:
        """Return a tree that has no leading axis where all replicas are."""
        return jax.device_put(tree, self.everywhere)

    def split(self, leaf: Any) -> jax.Array:
        """Return an array with its first axis, which N divides, split into replicas."""
        own = leaf.reshape(self.size, leaf.shape[0] // self.size, *leaf.shape[1:])
        return jax.device_put(own, self.where)

    def numbers(self, values: Sequence[float] | Sequence[bool]) -> jax.Array:
        """Return one number of each replica as an array."""
        dtype = bool if isinstance(values[0], bool) else jnp.result_type(float)
        return jax.device_put(np.asarray(values, dtype), self.where)

    def zeros(self, array: jax.Array) -> jax.Array:
        """Return zeros in place of an array of all replicas."""
        return jax.device_put(np.zeros(array.shape, array.dtype), self.where)

    def _repeat(self, leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        if self.size == 1:
            return leaf
        return jnp.broadcast_to(leaf[None], (self.size, *leaf.shape))


def first(tree: Any) -> Any:
    """Return the first replica's part of a tree."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def mean(tree: Any, keep: jax.Array) -> Any:
    """Return the mean of the replicas that are kept; of what is no float, the first's."""

    def of(leaf: jax.Array) -> jax.Array:
        if not is_float(leaf):
            return leaf[0]
        kept = keep.reshape(-1, *[1] * (leaf.ndim - 1))
        total = jnp.where(kept, leaf, 0).sum(0, dtype=_wide(leaf.dtype))
        return (total / keep.sum()).astype(leaf.dtype)

    return jax.tree.map(of, tree)


def averaged(tree: Any, keep: jax.Array) -> Any:
    """Return the tree with every float replaced by the mean of the replicas that are kept."""

    def of(leaf: jax.Array, one: jax.Array) -> jax.Array:
        return jnp.broadcast_to(one[None], leaf.shape) if is_float(leaf) else leaf

    return jax.tree.map(of, tree, mean(tree, keep))


def finite(tree: tuple[Any, Any, Any]) -> jax.Array:
    """Return, for each replica, whether its weights, optimizer state and extra are finite.

    An infinity in `extra` that all replicas have is a constant, such as a mask, or the best
    loss before the first one.
    """
    *own, extra = tree
    odd = [~jnp.isfinite(leaf) for leaf in jax.tree.leaves(own) if is_float(leaf)]
    for leaf in filter(is_float, jax.tree.leaves(extra)):
        constant = jnp.isinf(leaf) & (leaf == leaf[0]).all(0)
        odd.append(~(jnp.isfinite(leaf) | constant))
    return ~jnp.stack([x.reshape(x.shape[0], -1).any(1) for x in odd]).any(0)


def is_float(leaf: jax.Array) -> bool:
    """Return whether an array holds floating-point numbers."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


def _unstack_one(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), tree)


def _stack_one(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)

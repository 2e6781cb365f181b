"""What `Explorer` refuses and warns of, each with the remedy."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh

from ...errors import is_number, require, require_number, require_whole
from ...replica.explorer.config import SearchConfig

_CALL = "Explorer"
# Optimizer steps of a search and at least of its warm-up, about; a run should be so many
# searches long.
_SEARCH, _WARMUP, _SEARCHES = 60, 40, 4


def check_replicas(replicas: object) -> None:
    """Raise unless it is a number of replicas, or a mesh of one axis, in one process.

    Raises:
        RuntimeError: if there are several processes.
        ValueError: for anything else.
    """
    if jax.process_count() > 1:
        raise RuntimeError(
            f"`{_CALL}` decides in one process, and here are {jax.process_count()}: train with "
            f"all devices in one process."
        )
    if isinstance(replicas, Mesh):
        names, rule = replicas.axis_names, "must have one axis, the replicas"
        remedy = 'make it with jax.make_mesh((4,), ("replicas",))'
        require(len(names) == 1, _CALL, "replicas", names, rule, remedy)
    else:
        remedy = "give the number of replicas, or a mesh with one on each device"
        require_whole(_CALL, "replicas", replicas, remedy, low=1)


def check_rate(learning_rate: Any, total_steps: object) -> Any:
    """Return the rate as a plain number, or the schedule.

    Raises:
        ValueError: unless there is a rate, or a schedule with its length.
    """
    if callable(learning_rate):
        remedy = "count the optimizer steps of the run: a schedule alone does not tell its peak"
        require_whole(_CALL, "total_steps", total_steps, remedy, low=1)
        return learning_rate
    if isinstance(learning_rate, jax.Array | np.ndarray) and learning_rate.shape == ():
        learning_rate = learning_rate.item()
    require_number(
        _CALL, "learning_rate", learning_rate, "give a rate or an optax schedule", above=0
    )
    if total_steps is not None:
        require_whole(_CALL, "total_steps", total_steps, "count optimizer steps", low=1)
    return learning_rate


def check_probe(probe: object, batches: object, search: object) -> None:
    """Raise a `ValueError` unless a probe and its batches are both there, or neither."""
    remedy = "write probe=lambda state, batch: loss_fn(state.params, batch)"
    good = probe is None or callable(probe)
    require(good, _CALL, "probe", probe, "must be a callable of state and batch", remedy)
    if probe is None:
        rule, remedy = "must come with a `probe`", "give both, or neither"
        require(batches is None, _CALL, "probe_batches", batches, rule, remedy)
    else:
        good = hasattr(batches, "__len__") and hasattr(batches, "__getitem__")
        good = good and not isinstance(batches, Mapping)
        good = good and len(batches) > 0  # pyright: ignore[reportArgumentType]
        rule = "must be a list of batches, not empty"
        remedy = "take some held-out batches: list(itertools.islice(loader, 32))"
        require(good, _CALL, "probe_batches", batches, rule, remedy)
    good = search is None or isinstance(search, bool)
    require(good, _CALL, "search", search, "must be True, False or None", "leave it out")


def check_bounds(bounds: object) -> None:
    """Raise a `ValueError` unless there are two positive bounds, the lower one first."""
    pair = bounds if isinstance(bounds, Sequence) and len(bounds) == 2 else (0, 0)
    good = all(map(is_number, pair)) and 0 < pair[0] < pair[1]
    rule, remedy = "must be two factors, 0 < low < high", "as in bounds=(0.1, 3.0)"
    require(good, _CALL, "bounds", bounds, rule, remedy)


def check_others(make: object, sync_every: object, seed: object, config: object) -> None:
    """Raise a `ValueError` for one of the other arguments."""
    rule, remedy = "must be a callable of the learning rate", "give optax.adamw itself"
    require(callable(make), _CALL, "make_optimizer", make, rule, remedy)
    require_whole(_CALL, "sync_every", sync_every, "count optimizer steps", low=1)
    require(isinstance(seed, int), _CALL, "seed", seed, "must be a whole number", "try 0")
    good = config is None or isinstance(config, SearchConfig)
    remedy = "use hdet.SearchConfig(...)"
    require(good, _CALL, "config", config, "must be a SearchConfig", remedy)


def check_params(params: Any) -> None:
    """Raise a `ValueError` for weights that cannot be trained here."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    odd = [leaf.dtype for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    rule = "must be real floating-point numbers"
    remedy = "put anything else into `extra`"
    require(leaves and not odd, f"{_CALL}.init", "params", odd or params, rule, remedy)


def check_arguments_of_step(state: Any, arguments: Sequence[Any], size: int) -> None:
    """Raise for what a step is called with, if it cannot be right."""
    if isinstance(state.step, Tracer):
        raise TypeError(
            "a step of `Explorer.jit` decides on the host, between the compiled steps: call it "
            "from a plain Python loop, not under jit, scan or vmap."
        )
    for leaf in jax.tree.leaves(arguments) if size > 1 else ():
        shape = jnp.shape(leaf)
        if not shape or shape[0] != size:
            raise ValueError(
                f"a step of `Explorer.jit` got an array of shape {shape}: all arguments need "
                f"the {size} replicas as their leading axis, as `explorer.split(batch)` gives "
                f"them."
            )


def warn_of_short_run(total_steps: int, searches: bool) -> None:
    """Warn where a run is too short for its search."""
    if searches and total_steps < _SEARCHES * _SEARCH:
        warnings.warn(
            f"`{_CALL}(total_steps={total_steps})` looks for the learning rate for about "
            f"{_SEARCH} of these steps and then warms up for {_WARMUP} to {2 * _WARMUP}: a run "
            f"should be at least {_SEARCHES} times as long as the search. Train for longer, or "
            f"use search=False.",
            stacklevel=3,
        )

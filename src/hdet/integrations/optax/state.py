"""What training carries from step to step, and the step of one replica.

All of it is one pytree, so it is saved, sharded and looked at like any other. `Explorer` writes
`controls` between the steps and reads `seen`; a step reads `controls` and writes `seen`.

The agreement of updates and gradients (`hdet.replica.ensemble.update_agreement`) is made of
four sums over all weights, with w the last update and g the gradient of now: -sum(g w),
sum|g w|, sum(g g), sum(w w). A fifth, sum(s s) with the shared gradient s, gives the gain of
sharing it (`hdet.replica.ensemble.gradient_gain`). After the search w is an older update
(`hdet.replica.ensemble.deferred_agreement`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from .optimizer import at_rate


class Controls(NamedTuple):
    """What the host has decided for a replica.

    Attributes:
        factor: its learning rate as a multiple of the schedule, or of the schedule's peak.
        searching: whether it is of the peak.
        apart: whether the replica trains on its own gradient.
    """

    factor: jax.Array
    searching: jax.Array
    apart: jax.Array


class Seen(NamedTuple):
    """What a replica has seen since the last decision.

    Attributes:
        loss: sum of its losses.
        known: whether `previous` are the weights before the last step.
        kept: whether `previous` is an older update, which stays, or where that begins.
        previous: those weights, or that update; None where nobody asks any more.
        newest: the five sums of the last step; zeros if not known.
        total: of all steps since they were zeros.
    """

    loss: jax.Array
    known: jax.Array
    kept: jax.Array
    previous: Any
    newest: jax.Array
    total: jax.Array


class ExplorerState(NamedTuple):
    """Everything that a step changes.

    Outside a step every array has the replicas, if there are several, as its leading axis;
    inside it has none.

    Attributes:
        params: the weights.
        opt_state: the optimizer's state.
        step: optimizer steps so far.
        extra: what else the model changes, such as batch statistics; set it in the step with
            `state._replace(extra=...)`. Its floats are averaged with the weights.
        controls: what the host has decided; None for one replica.
        seen: what it will decide by; None for one replica.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    extra: Any = None
    controls: Any = None
    seen: Any = None


def trained(state: ExplorerState) -> tuple[Any, Any, Any]:
    """Return weights, optimizer state and extra: what is averaged, and what a trial undoes."""
    return state.params, state.opt_state, state.extra


def with_trained(state: ExplorerState, values: tuple[Any, Any, Any]) -> ExplorerState:
    """Return the state with other weights, optimizer state and extra."""
    params, opt_state, extra = values
    return state._replace(params=params, opt_state=opt_state, extra=extra)


def begun(params: Any, opt_state: Any, extra: Any, watch: bool) -> ExplorerState:
    """Return one replica's state before the first step; `watch` is whether w is compared."""
    zero = jnp.zeros((), jnp.result_type(float))
    no, sums = jnp.zeros((), bool), jnp.zeros(5, zero.dtype)
    seen = Seen(zero, no, no, params if watch else None, sums, sums)
    controls = Controls(zero, no, no)
    return ExplorerState(params, opt_state, jnp.zeros((), int), extra, controls, seen)


def plain_step(
    state: ExplorerState, grads: Any, optimizer: optax.GradientTransformation
) -> ExplorerState:
    """Return the state of one replica alone after a step: that of the plain optimizer."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state._replace(params=params, opt_state=opt_state, step=state.step + 1)


def take_step(
    state: ExplorerState,
    grads: Any,
    loss: ArrayLike,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: Callable[[jax.Array], Any],
    peak: float,
    axis: str,
) -> ExplorerState:
    """Return one replica's state after an optimizer step.

    Args:
        state: of the replica.
        grads: its own.
        loss: its own.
        optimizer: with a rate that can be set.
        schedule: of the optimizer step.
        peak: largest rate of the schedule.
        axis: over which gradients are shared.
    """
    controls = state.controls
    shared = jax.lax.pmean(grads, axis)
    grads = jax.tree.map(partial(jnp.where, controls.apart), grads, shared)
    seen = _look(state.seen, state.params, grads, shared)
    seen = seen._replace(loss=seen.loss + jnp.asarray(loss, seen.loss.dtype))
    base = jnp.where(controls.searching, peak, schedule(state.step))
    opt_state = at_rate(state.opt_state, controls.factor * base)
    updates, opt_state = optimizer.update(grads, opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state._replace(params=params, opt_state=opt_state, step=state.step + 1, seen=seen)


def _look(seen: Seen, params: Any, grads: Any, shared: Any) -> Seen:
    """Take in the gradients of now, before the weights move; `shared` are their means."""
    if seen.previous is None:
        return seen
    wide = seen.total.dtype

    def sums(now: jax.Array, before: jax.Array, own: jax.Array, mean: jax.Array) -> jax.Array:
        start = before.astype(wide)
        moved = jnp.where(seen.kept, start, now.astype(wide) - start)
        g, s = own.astype(wide), mean.astype(wide)
        product = g * moved
        rows = (-product, jnp.abs(product), g * g, moved * moved, s * s)
        return jnp.stack([row.sum() for row in rows])

    parts = jax.tree.leaves(jax.tree.map(sums, params, seen.previous, grads, shared))
    newest = jnp.where(seen.known, jnp.stack(parts).sum(0), 0)
    previous = jax.tree.map(partial(jnp.where, seen.kept), seen.previous, params)
    known = jnp.ones_like(seen.known)
    return seen._replace(
        known=known, previous=previous, newest=newest, total=seen.total + newest
    )

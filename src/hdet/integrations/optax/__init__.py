"""hdet on JAX: `Explorer` finds the learning rate of any optax optimizer while it trains.

    explorer = Explorer(optax.adamw, schedule, total_steps=10_000, replicas=4,
                        probe=lambda state, batch: loss_fn(state.params, batch),
                        probe_batches=held_out)
    state = explorer.init(params)

    @explorer.jit                                  # in place of jax.jit
    def step(state, batch):                        # what one replica does
        loss, grads = jax.value_and_grad(loss_fn)(state.params, batch)
        return explorer.update(state, grads, loss), loss

    for batch in batches:
        state, losses = step(state, explorer.split(batch))
    params = explorer.converged(state).params

The algorithm is that of `hdet.Explorer`, and what decides is the same code; torch is not
needed. The replicas are a leading axis of all arrays: on one device (`vmap`), or on a mesh with
one replica on each device (`shard_map`).
"""

try:
    import jax  # noqa: F401
    import optax  # noqa: F401
except ImportError as error:
    raise ImportError(
        'hdet.integrations.optax needs JAX and optax: pip install "hdet[jax]"'
    ) from error

from ...replica.explorer.config import SearchConfig as SearchConfig
from .explorer import Explorer as Explorer
from .state import ExplorerState as ExplorerState

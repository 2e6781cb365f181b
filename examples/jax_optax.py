"""Train in JAX from a learning rate that is 30 times too low, and from one 30 times too high.

    python examples/jax_optax.py
    XLA_FLAGS=--xla_force_host_platform_device_count=4 python examples/jax_optax.py --mesh

Four replicas on one device, or one on each of four. What is hdet's are the lines marked so;
torch is not needed. Each run prints its rate as it goes.
"""

import argparse

import jax
import jax.numpy as jnp
import optax

from hdet.integrations.optax import Explorer

WIDTHS = (8, 64, 64, 1)


def init(key: jax.Array) -> list[dict[str, jax.Array]]:
    """Return the weights of a small network."""
    keys, sizes = jax.random.split(key, 3), zip(WIDTHS[:-1], WIDTHS[1:], strict=True)
    return [
        {"w": jax.random.normal(k, (i, o)) / i**0.5, "b": jnp.zeros(o)}
        for k, (i, o) in zip(keys, sizes, strict=True)
    ]


def loss_fn(
    params: list[dict[str, jax.Array]], batch: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Return the mean squared error."""
    x, y = batch
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return jnp.mean((x @ params[-1]["w"] + params[-1]["b"] - y) ** 2)


def data(seed: int, count: int) -> tuple[jax.Array, jax.Array]:
    """Return inputs and the noisy targets of a fixed function."""
    key, noise = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(key, (count, 8))
    y = jnp.sin(2 * x[:, :4]).sum(1, keepdims=True) + (x[:, 4:] ** 2).mean(1, keepdims=True)
    return x, y + 0.3 * jax.random.normal(noise, (count, 1))


def train(lr: float, steps: int, replicas: int | jax.sharding.Mesh) -> float:
    """Train one model from an initial rate; return its held-out loss."""
    schedule = optax.cosine_decay_schedule(lr, steps)
    explorer = Explorer(  # hdet: in place of the optimizer
        optax.adamw,
        schedule,
        replicas=replicas,
        total_steps=steps,
        sync_every=5,
        probe=lambda state, batch: loss_fn(state.params, batch),
        probe_batches=[data(10_000 + k, 64) for k in range(100)],
    )
    state = explorer.init(init(jax.random.key(0)))  # hdet: in place of optimizer.init

    @explorer.jit  # hdet: in place of jax.jit
    def step(state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(state.params, batch)
        return explorer.update(state, grads, loss), loss  # hdet: in place of apply_updates

    for t in range(steps):
        state, _ = step(state, explorer.split(data(t, 64)))  # hdet: a part for each replica
        if (t + 1) % (steps // 6) == 0:
            seen = explorer.metrics()
            print(f"  step {t + 1}: rate {seen['base_lr']:.2e} ({seen['phase']})")
    return float(loss_fn(explorer.converged(state).params, data(20_000, 4096)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--mesh", action="store_true", help="one replica on each device")
    arguments = parser.parse_args()
    devices = jax.device_count()
    replicas = jax.make_mesh((devices,), ("replicas",)) if arguments.mesh else 4
    for lr in (1e-2 / 30, 1e-2 * 30):
        print(f"initial learning rate {lr:.1e}")
        print(f"  held-out loss {train(lr, arguments.steps, replicas):.4f}")

"""One small problem for JAX and for torch: the same weights, batches and schedules."""

import os
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.optim.lr_scheduler import LambdaLR

import hdet
from hdet.integrations.optax import Explorer
from hdet.replica.explorer import reference
from tests.helpers import batch, loss_at, small_model

jax.config.update("jax_enable_x64", True)
# Most runs here are of the same programs.
_CACHE = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
STEPS, T, N, PEAK = 140, 6, 4, 0.05
# So that the rise is less than its most whatever the noise of these batches.
# And so that some old updates are scored in runs so short.
CONFIG = hdet.SearchConfig(gain_power=0.5, evidence_steps=4, evidence_delay=3, hold_share=0.1)
OPTIMIZERS = {
    "adamw": (
        lambda lr: optax.adamw(lr, weight_decay=0.1),
        lambda m: torch.optim.AdamW(m.parameters(), lr=PEAK, weight_decay=0.1),
    ),
    "sgd": (
        lambda lr: optax.sgd(lr, momentum=0.9),
        lambda m: torch.optim.SGD(m.parameters(), lr=PEAK, momentum=0.9),
    ),
    "adam": (
        lambda lr: optax.chain(optax.add_decayed_weights(0.1), optax.adam(lr)),
        lambda m: torch.optim.Adam(m.parameters(), lr=PEAK, weight_decay=0.1),
    ),
}
SCHEDULES: dict[str, Any] = {
    "cosine": optax.cosine_decay_schedule(PEAK, STEPS),
    "warm-up": optax.warmup_cosine_decay_schedule(0.0, PEAK, 80, STEPS),
    "none": PEAK,
}


def start():
    """Return the weights of `small_model`."""
    return {k: jnp.asarray(v.numpy()) for k, v in small_model().state_dict().items()}


def loss_fn(params, data):
    """Return the loss of `loss_at`."""
    x, y = data
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"])
    return jnp.mean((hidden @ params["2.weight"].T + params["2.bias"] - y) ** 2)


def as_arrays(data):
    return tuple(t.numpy() for t in data)


def batches(t, replicas=N):
    """Return the batches of all replicas at a step; of one without an axis."""
    if replicas == 1:
        return as_arrays(batch(t, 0))
    rows = [as_arrays(batch(t, r)) for r in range(replicas)]
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


HELD_OUT = [as_arrays(batch(100_000 + k, 0, size=16)) for k in range(60)]


class Run:
    """A run of Explorer for JAX; `bad` is a step whose gradients are far too large."""

    def __init__(
        self,
        name: str | Callable[[Any], Any] = "adamw",
        schedule="cosine",
        probed=True,
        bad=None,
        place=None,
        bad_scale=1e4,
        **more,
    ):
        probe = {"probe": lambda s, b: loss_fn(s.params, b), "probe_batches": HELD_OUT}
        settings: dict[str, Any] = {
            "replicas": N,
            "total_steps": STEPS,
            "sync_every": T,
            "seed": 3,
            "config": CONFIG,
        }
        settings |= (probe if probed else {}) | more
        make = name if callable(name) else OPTIMIZERS[name][0]
        self.explorer = Explorer(make, SCHEDULES[schedule], **settings)
        self.state = self.explorer.init(start())
        self.bad, self.bad_scale = bad, bad_scale
        self.place = place  # of the batches
        self.rates, self.phases, self.losses = [], [], []

        def step(state, data, scale):
            loss, grads = jax.value_and_grad(lambda p: scale * loss_fn(p, data))(state.params)
            return self.explorer.update(state, grads, loss), loss

        self.step = self.explorer.jit(step)

    def train(self, steps):
        for t in steps:
            told = self.explorer.metrics()
            self.rates.append(told["replica_lr"])
            self.phases.append(told["phase"])
            size = self.explorer.replicas.size
            scale = np.full(
                [size] if size > 1 else [], self.bad_scale if t == self.bad else 1.0
            )
            data = jax.device_put(batches(t, size), self.place)
            self.state, losses = self.step(self.state, data, scale)
            self.losses.append(losses.tolist())
        return self

    def saved(self):
        return pickle.dumps(self.explorer.state_dict(self.state))

    def load(self, saved):
        self.state = self.explorer.load_state_dict(pickle.loads(saved))

    def end(self):
        """Return all that has to be the same where two runs are, to the last bit."""
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(self.state)]


def probe_at(model, call):
    x, y = batch(100_000 + call, 0, size=16)
    return (model(x) - y).square().mean()


def torch_run(
    name="adamw", schedule="cosine", probed=True, bad=None, bad_scale=1e4, search=None
):
    """Return the trace of the slow reference."""
    given: Any = SCHEDULES[schedule]

    def loss(model, t, r):
        return (bad_scale if t == bad else 1.0) * loss_at(model, t, r)

    def factor(t):
        rate: Any = given(t) if callable(given) else given
        return float(rate) / PEAK

    return reference.train(
        small_model(),
        OPTIMIZERS[name][1],
        lambda o: LambdaLR(o, factor),
        loss,
        probe_at if probed else None,
        explore=lambda _: [hdet.lr()],
        replicas=N,
        total_steps=STEPS,
        T=T,
        seed=3,
        search=search,
        config=CONFIG,
    )

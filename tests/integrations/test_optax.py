"""Explorer on JAX is Explorer on torch, to the last digits; and what only JAX has."""

import logging
import subprocess
import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

from hdet.integrations.optax import Explorer, SearchConfig  # noqa: E402
from tests.integrations.optax_runs import (  # noqa: E402
    HELD_OUT,
    SCHEDULES,
    STEPS,
    N,
    Run,
    batches,
    loss_fn,
    start,
    torch_run,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*looks for the learning rate for about")
CASES = [
    ("adamw", "cosine", {}),
    ("sgd", "warm-up", {}),
    ("adam", "none", {"search": False}),
    ("adamw", "cosine", {"probed": False, "search": True}),
    ("sgd", "none", {"search": False, "bad": 100}),
]


@pytest.mark.parametrize(("name", "schedule", "more"), CASES)
def test_it_is_explorer_on_torch_to_the_last_digits(name, schedule, more):
    run = Run(name, schedule, **more).train(range(STEPS))
    trace = torch_run(name, schedule, **more)
    expected = [step[0] for step in trace.rates]
    np.testing.assert_allclose(run.rates, expected, rtol=1e-9, atol=0)
    np.testing.assert_allclose(run.losses, trace.losses, rtol=1e-8)
    for key, own in run.state.params.items():
        theirs = np.stack([m.state_dict()[key].numpy() for m in trace.models])
        np.testing.assert_allclose(own, theirs, rtol=1e-6, atol=1e-9)
    told = run.explorer.metrics()
    assert told["factor"] == pytest.approx(trace.values[-1][0], rel=1e-9)
    assert told["rollbacks"] == trace.rollbacks == ("bad" in more)
    phases = ["track"] if not more.get("search", True) else ["climb", "settle", "track"]
    if not more:
        phases.insert(2, "trial")
    assert list(dict.fromkeys(run.phases)) == phases
    # Nothing that is decided compiles the step again; only what is watched no longer does.
    assert run.traced <= 2

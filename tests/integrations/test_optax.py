"""Explorer on JAX is Explorer on torch, to the last digits; and what only JAX has."""

import logging
import math
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

from hdet.integrations.optax import Explorer, SearchConfig  # noqa: E402
from tests.integrations.optax_runs import (  # noqa: E402
    HELD_OUT,
    STEPS,
    N,
    Run,
    batches,
    loss_fn,
    start,
    torch_run,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*looks for the learning rate for about")
ROOT = Path(__file__).parents[2]
CASES = [
    ("adamw", "cosine", {}),
    ("sgd", "warm-up", {}),
    ("adam", "none", {"search": False}),
    ("adamw", "cosine", {"probed": False, "search": True}),
    ("sgd", "none", {"search": False, "bad": 100}),
    ("adamw", "cosine", {"bad": 70, "bad_scale": math.nan}),  # while the rate warms up
]


@pytest.fixture
def compiled(caplog):
    """Return a context whose value tells how often a step was compiled in it."""

    @contextmanager
    def watched():
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            yield lambda: caplog.text.count("Finished XLA compilation of jit(step)")

    return watched()


@pytest.mark.parametrize(("name", "schedule", "more"), CASES)
def test_it_is_explorer_on_torch_to_the_last_digits(name, schedule, more, compiled):
    run = Run(name, schedule, **more)
    with compiled as times:
        run.train(range(STEPS))
    searched = more.get("search", True)
    # The second time, where the schedule has decayed, updates are watched no longer.
    assert times() == 1 + searched
    assert run.state.seen.previous is None
    assert (run.explorer._exploration.cosine != 0) == searched  # old updates were scored
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
    phases = ["track"] if not searched else ["climb", "settle", "warmup", "track"]
    if more.get("probed", searched):
        phases.insert(2, "trial")
    assert list(dict.fromkeys(run.phases)) == phases


def test_one_replica_is_the_plain_optimizer_bit_for_bit():
    draw = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(draw[0], (100, 33), jnp.float32)
    params = {
        "in": jax.random.normal(draw[1], (33, 65), jnp.float32),
        "out": jax.random.normal(draw[2], (65, 1), jnp.float32),
    }

    def loss(p, data):
        return jnp.mean((jnp.tanh(data @ p["in"]) @ p["out"] - data[:, :1]) ** 2)

    def make(lr):
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr))

    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.01, 10, 40)
    optimizer = make(schedule)

    @jax.jit
    def plain(params, opt_state, data):
        value, grads = jax.value_and_grad(loss)(params, data)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    probe = {"probe": lambda s, b: loss(s.params, b), "probe_batches": [x]}
    explorer = Explorer(make, schedule, replicas=1, total_steps=40, sync_every=5, **probe)

    @explorer.jit
    def step(state, data):
        value, grads = jax.value_and_grad(loss)(state.params, data)
        return explorer.update(state, grads, value), jax.lax.pmean(value, explorer.axis)

    state, own, opt_state = explorer.init(params), params, optimizer.init(params)
    for t in range(40):
        data = jnp.roll(x, t, 0)[:48]
        state, _ = step(state, explorer.split(data))
        own, opt_state, _ = plain(own, opt_state, data)
    for a, b in zip(
        jax.tree.leaves((state.params, state.opt_state)),
        jax.tree.leaves((own, opt_state)),
        strict=True,
    ):
        assert np.array_equal(a, b)
    assert explorer.metrics()["phase"] == "track"
    assert explorer.found() == pytest.approx(0.01)


@pytest.fixture(scope="module")
def whole():
    """Return an uninterrupted run, with its checkpoints at some steps."""
    run, saved = Run(), {}
    for t in range(130):
        if t in (20, 30, 45, 66, 120):
            saved[t] = run.saved()
        run.train([t])
    return run, saved


def test_a_mesh_of_devices_is_the_same_as_one_device(whole, compiled):
    mesh = jax.make_mesh((N,), ("data",))
    place = jax.sharding.NamedSharding(mesh, jax.P("data"))
    one, many = whole[0], Run(replicas=mesh, place=place)
    with compiled as times:
        many.train(range(120))
    assert times() == 2
    assert len(many.state.params["0.weight"].sharding.device_set) == N
    assert many.phases == one.phases[:120]
    assert "trial" in many.phases
    np.testing.assert_allclose(many.rates, one.rates[:120], rtol=1e-9)
    np.testing.assert_allclose(many.losses, one.losses[:120], rtol=1e-8)
    saved = pickle.loads(whole[1][120])["state"]
    leaves = jax.tree.leaves(many.state._replace(controls=None))
    for own, theirs in zip(leaves, saved, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("at", "phase"),
    [(20, "climb"), (30, "settle"), (45, "trial"), (66, "warmup"), (120, "track")],
)
def test_a_resumed_run_is_the_same_to_the_last_bit(whole, at, phase):
    run, saved = whole
    assert run.phases[at] == phase
    again = Run()
    again.load(saved[at])
    again.train(range(at, 130))
    assert again.rates == run.rates[at:]
    assert again.losses == run.losses[at:]
    assert again.end() == run.end()
    one, two = run.explorer.metrics(), again.explorer.metrics()
    assert repr(one) == repr(two)


def test_one_replica_resumes_as_well():
    run = Run(replicas=1).train(range(10))
    again = Run(replicas=1)
    again.load(run.saved())
    assert again.train(range(10, 20)).losses == run.train(range(10, 20)).losses[10:]


@pytest.mark.parametrize("replicas", [1, 2])
def test_weights_in_half_precision_with_wider_gradients_resume(replicas):
    explorer = Explorer(optax.adam, 0.1, replicas=replicas, search=False)

    @explorer.jit
    def step(state):
        grads = jax.tree.map(lambda w: w.astype(jnp.float32) + 1, state.params)
        return explorer.update(state, grads, 0.0), None

    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), start())
    state, _ = step(explorer.init(half))
    saved = explorer.state_dict(state)
    again = explorer.load_state_dict(saved)
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)
    explorer.init(jax.tree.map(lambda w: w.astype(jnp.float16), half))
    with pytest.raises(ValueError, match="and float16"):
        explorer.load_state_dict(saved)


def test_a_schedule_of_the_users_own_goes_on_after_a_rollback():
    def make(lr):
        own = optax.scale_by_schedule(optax.constant_schedule(1.0))
        return optax.chain(optax.trace(0.9), own, optax.scale_by_learning_rate(lr))

    run = Run(make, "none", search=False, bad=100).train(range(103))
    assert run.explorer.metrics()["rollbacks"] == 1
    assert run.state.opt_state.inner_state[1].count.tolist() == [103] * N


@pytest.mark.parametrize("at", [45, 120])
def test_a_run_with_a_search_may_be_resumed_without_a_probe(whole, at):
    run, saved = whole
    told = run.phases[at]
    again = Run(probed=False)
    again.load(saved[at])
    if told == "trial":  # which is undone
        before = pickle.loads(saved[at])["parted"]
        assert all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(again.state.params), before, strict=False)
        )
    again.train(range(at, at + 8))
    assert "trial" not in again.phases


def test_a_rate_may_be_an_array_of_one_number():
    explorer = Explorer(optax.adam, jnp.asarray(0.05), replicas=2)
    assert sorted(explorer.metrics()["replica_lr"]) == pytest.approx([0.05 / 1.3, 0.05 * 1.3])


def test_a_damaged_or_foreign_state_is_refused_and_changes_nothing(whole):
    _, saved = whole
    run, before = Run(), Run().saved()
    good = pickle.loads(saved[45])
    less = [leaf[..., :1] for leaf in good["state"]]
    for bad, words in [
        ({**good, "format": 2}, "format"),
        ({**good, "replicas": 8}, "as many replicas"),
        ({**good, "state": less}, "must be an array of shape"),
        ({**good, "state": good["state"][1:]}, "must have"),
        ({**good, "parted": good["parted"][:-1]}, "must have"),
        ({k: v for k, v in good.items() if k != "snapshots"}, "without `snapshots`"),
    ]:
        with pytest.raises(ValueError, match=words):
            run.explorer.load_state_dict(bad)
    assert run.saved() == before
    explorer = Explorer(optax.sgd, 0.1, replicas=2)
    with pytest.raises(RuntimeError, match=r"call `explorer.init\(params\)` first"):
        explorer.load_state_dict(good)


def test_in_a_trial_the_converged_weights_are_those_from_before_it():
    run = Run()
    run.train(range(40))
    assert run.explorer.metrics()["phase"] == "trial"
    before = run.explorer.converged(run.state).params
    run.train(range(40, 48))
    spread = np.ptp(run.state.params["0.weight"], axis=0).max()
    assert spread > 1e-3
    after = run.explorer.converged(run.state)
    assert all(np.array_equal(before[k], after.params[k]) for k in before)
    assert after.params["0.bias"].shape == (8,)
    assert int(after.step) == 48


def test_a_replica_that_is_not_finite_is_left_out_and_healed():
    run = Run(search=False, schedule="none").train(range(10))
    params = {k: v.at[2].set(jnp.nan) for k, v in run.state.params.items()}
    run.state = run.state._replace(params=params)
    clean = run.explorer.converged(run.state).params
    assert all(np.isfinite(v).all() for v in clean.values())
    # From here on the shared gradient is NaN: a sync is due before the next step.
    synced = run.explorer._sync(run.state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(synced.params))
    assert run.explorer.metrics()["masked"] == [2]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_momentum_that_is_nan_where_the_climb_ends_begins_anew(name):
    run = Run(name, bad=12, bad_scale=np.nan).train(range(16))
    assert run.phases[12:14] == ["climb", "settle"]
    floats = jax.tree.leaves((run.state.params, run.state.opt_state))
    assert all(np.isfinite(x).all() for x in floats)
    assert np.isfinite(run.losses[13:]).all()


def test_an_infinity_that_all_have_in_extra_is_a_constant_and_one_replicas_own_is_not():
    explorer = Explorer(optax.adam, 0.05, replicas=N, sync_every=2)

    @explorer.jit
    def step(state, data, broken):
        loss, grads = jax.value_and_grad(loss_fn)(state.params, data)
        stats = state.extra["stats"] + broken
        extra = {**state.extra, "stats": stats}
        return explorer.update(state._replace(extra=extra), grads, loss), loss

    extra = {"mask": jnp.asarray([0.0, -jnp.inf]), "stats": 1.0}
    state = explorer.init(start(), extra)
    for t, broken in enumerate(([0.0] * N, [0.0] * N, [0.0, jnp.inf, 0.0, 0.0], [0.0] * N)):
        state, _ = step(state, batches(t), jnp.asarray(broken))
        if t == 1:
            assert explorer.metrics()["masked"] == []
    assert explorer.metrics()["masked"] == [1]
    assert state.extra["mask"].tolist() == [[0.0, -np.inf]] * N
    assert state.extra["stats"].tolist() == [1.0] * N


@pytest.mark.parametrize("mesh", [True, False])
def test_weights_and_batches_may_lie_on_one_device(mesh):
    def here(tree):
        return jax.device_put(tree, jax.devices()[1])

    explorer = Explorer(
        optax.adam,
        0.05,
        replicas=jax.make_mesh((N,), ("data",)) if mesh else N,
        sync_every=1,
        probe=lambda s, b: loss_fn(s.params, b),
        probe_batches=here(HELD_OUT[:1]),
        search=False,
    )

    @explorer.jit
    def step(state, data):
        loss, grads = jax.value_and_grad(loss_fn)(state.params, data)
        return explorer.update(state, grads, loss), loss

    data = HELD_OUT[0]
    state, losses = step(explorer.init(here(start())), explorer.split(here(data)))
    assert float(losses.mean()) == pytest.approx(float(loss_fn(start(), data)))
    assert np.isfinite(explorer.metrics()["probes"]).all()


def test_nothing_finite_from_the_start_is_an_error_with_a_remedy():
    run = Run(search=False)
    run.state = run.state._replace(
        params=jax.tree.map(jnp.log, jax.tree.map(lambda x: -x * x, run.state.params))
    )
    with pytest.raises(RuntimeError, match="lower the learning rate"):
        run.train(range(6))


def test_extra_is_averaged_put_back_and_given_to_the_probe():
    seen = []

    def probe(state, data):
        seen.append(state.extra["mean"].shape)
        return loss_fn(state.params, data) + 0 * state.extra["mean"].sum()

    explorer = Explorer(
        optax.adam, 0.05, replicas=N, sync_every=6, probe=probe, probe_batches=HELD_OUT
    )

    @explorer.jit
    def step(state, data):
        loss, grads = jax.value_and_grad(loss_fn)(state.params, data)
        extra = {
            "mean": 0.9 * state.extra["mean"] + 0.1 * data[0].mean(0),
            "count": state.extra["count"] + 1,
        }
        return explorer.update(state._replace(extra=extra), grads, loss), loss

    state = explorer.init(start(), {"mean": jnp.zeros(6), "count": jnp.zeros((), int)})
    phases = []
    for t in range(80):
        phases.append(explorer.metrics()["phase"])
        before = state.extra["mean"]
        state, _ = step(state, batches(t))
        if phases[-1] == "trial" and explorer.metrics()["phase"] != "trial":
            began = before  # of the last step of a trial
            assert not np.array_equal(state.extra["mean"], began)
    assert seen[0] == (6,)
    assert "trial" in phases
    one = explorer.converged(state)
    np.testing.assert_allclose(one.extra["mean"], state.extra["mean"].mean(0), rtol=1e-12)
    assert one.extra["count"].dtype == jnp.int64


def test_no_replica_leaves_the_bounds_in_any_phase():
    run = Run("sgd", "none", bounds=(0.1, 1.5)).train(range(140))
    assert {"climb", "settle", "trial", "warmup", "track"} == set(run.phases)
    settled = [row for row, phase in zip(run.rates, run.phases, strict=True)]
    assert max(map(max, settled)) <= 1.5 * 0.05 * (1 + 1e-9)
    assert min(map(min, settled)) >= 0.1 * 0.05 * (1 - 1e-9)


def test_it_logs_its_decisions_and_shows_where_it_stands(caplog):
    with caplog.at_level(logging.INFO, logger="hdet"):
        run = Run().train(range(115))
    text = caplog.text
    for words in ("the climb ends at", "trial 1", "the search is over", "of old updates"):
        assert words in text
    assert "replicas 4" in repr(run.explorer)
    assert "last decision: step 11" in repr(run.explorer)
    assert run.explorer.found() == pytest.approx(run.explorer.metrics()["factor"] * 0.05)


def test_without_torch_it_trains():
    code = """
import sys
sys.modules["torch"] = None
import jax, jax.numpy as jnp, optax
from hdet.integrations.optax import Explorer
loss = lambda p, x: jnp.mean((x @ p - 1) ** 2)
x = jax.random.normal(jax.random.key(0), (64, 4))
explorer = Explorer(optax.adam, 0.1, replicas=2, sync_every=2,
                    probe=lambda s, b: loss(s.params, b), probe_batches=[x])
@explorer.jit
def step(state, batch):
    value, grads = jax.value_and_grad(loss)(state.params, batch)
    return explorer.update(state, grads, value), value
state = explorer.init(jnp.zeros(4))
for _ in range(170):
    state, _ = step(state, explorer.split(x))
state = explorer.load_state_dict(explorer.state_dict(state))
print(explorer.metrics()["phase"], explorer.metrics()["syncs"] > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("track True\n", "")


def test_without_optax_the_error_says_what_to_install(monkeypatch):
    import importlib

    import hdet.integrations.optax as module

    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ImportError, match=r'pip install "hdet\[jax\]"'):
        importlib.reload(module)


def test_the_example_trains_on_a_mesh():
    example = ROOT / "examples" / "jax_optax.py"
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, str(example), "--steps", "90", "--mesh"],
        capture_output=True,
        text=True,
        env={**os.environ, **devices},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out loss") == 2
    assert "(climb)" in done.stdout


def test_the_constants_are_those_of_torch():
    import hdet

    assert SearchConfig is hdet.SearchConfig

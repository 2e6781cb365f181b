"""What Explorer on JAX refuses, and how it says so."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

from hdet.integrations.optax import Explorer  # noqa: E402
from tests.integrations.optax_runs import (  # noqa: E402
    SCHEDULES,
    N,
    Run,
    batches,
    start,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*looks for the learning rate for about")

GOOD = {"replicas": 4}
PROBE = {"probe": lambda s, b: 0.0, "probe_batches": [1]}


@pytest.mark.parametrize(
    ("rate", "more", "words"),
    [
        (0.1, {"replicas": 0}, "replicas=0.* must be a whole number"),
        (0.1, {"replicas": True}, "or a mesh"),
        (-0.1, GOOD, "learning_rate=-0.1.* above 0"),
        (SCHEDULES["cosine"], GOOD, "total_steps=None.* does not tell its peak"),
        (lambda step: 0.0 * step, {**GOOD, "total_steps": 9}, "must be above 0"),
        (0.1, {**GOOD, "sync_every": 0}, "sync_every=0"),
        (0.1, {**GOOD, "probe": 3, "probe_batches": [1]}, "callable of state and batch"),
        (0.1, {**GOOD, "probe": PROBE["probe"]}, "list of batches"),
        (0.1, {**GOOD, "probe": PROBE["probe"], "probe_batches": []}, "not empty"),
        (0.1, {**GOOD, "probe": PROBE["probe"], "probe_batches": {"x": 1}}, "list of batches"),
        (0.1, {**GOOD, "probe_batches": [1]}, "must come with a `probe`"),
        (0.1, {**GOOD, "search": 1}, "True, False or None"),
        (0.1, {**GOOD, "bounds": (2, 1)}, "0 < low < high"),
        (0.1, {**GOOD, "seed": "a"}, "seed"),
        (0.1, {**GOOD, "config": {}}, "must be a SearchConfig"),
    ],
)
def test_an_argument_that_cannot_be_right_is_refused(rate, more, words):
    with pytest.raises(ValueError, match=words):
        Explorer(optax.adamw, rate, **more)


def test_a_mesh_of_two_axes_is_refused():
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    with pytest.raises(ValueError, match="must have one axis"):
        Explorer(optax.adamw, 0.1, replicas=mesh)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(RuntimeError, match="decides in one process, and here are 2"):
        Explorer(optax.adamw, 0.1, replicas=4)


def test_an_optimizer_instead_of_what_makes_one_is_refused():
    with pytest.raises(ValueError, match="give optax.adamw itself"):
        Explorer(optax.adamw(0.1), 0.1, replicas=2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda lr: optax.contrib.prodigy(lr), "ProdigyState, which chooses the length"),
        (lambda lr: optax.contrib.schedule_free_adamw(lr), "keeps weights of its own"),
        (lambda lr: optax.MultiSteps(optax.adam(lr), 4), "add the gradients up inside"),
        (lambda lr: optax.chain(optax.apply_every(4), optax.sgd(lr)), "takes a step only now"),
        (optax.inject_hyperparams(optax.adamw), "same at the learning rates 0.1 and 0.0001"),
        (
            lambda _: optax.adamw(optax.linear_schedule(0.0, 0.1, 50)),
            "must use the rate that it is called with",
        ),
    ],
)
def test_an_optimizer_that_several_rates_would_break_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        Explorer(make, 0.1, replicas=2).init(start())


@pytest.mark.parametrize(
    "make",
    [
        lambda lr: optax.chain(
            optax.adam(lr), optax.scale_by_schedule(optax.linear_schedule(0.0, 1.0, 50))
        ),
        lambda lr: optax.chain(optax.sgd(lr), optax.clip_by_global_norm(0.01)),
        lambda lr: optax.masked(optax.lion(lr), {k: k == "0.bias" for k in start()}),
        optax.contrib.muon,
        optax.adafactor,
    ],
)
def test_an_optimizer_whose_steps_depend_on_the_rate_is_taken(make):
    Explorer(make, 0.1, replicas=2).init(start())


def test_weights_that_are_no_real_numbers_are_refused():
    with pytest.raises(ValueError, match="into `extra`"):
        Explorer(optax.adam, 0.1, replicas=2).init({"w": jnp.ones(3, complex)})


def wrong_step(make):
    explorer = Explorer(optax.adam, 0.1, replicas=N)
    return explorer, explorer.jit(make(explorer)), explorer.init(start())


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda e: lambda s, d: (s, 0.0), ValueError, "0 times"),
        (lambda e: lambda s, d: e.update(s, s.params, 0.0), TypeError, "return state, loss"),
        (
            lambda e: lambda s, d: (e.update(e.update(s, s.params, 0.0), s.params, 0.0), 0),
            ValueError,
            "2 times",
        ),
        (lambda e: lambda s, d: (e.update(s, s.params, d[0]), 0), ValueError, "give its mean"),
    ],
)
def test_a_step_that_cannot_be_right_is_refused(make, error, words):
    _, step, state = wrong_step(make)
    with pytest.raises(error, match=words):
        step(state, batches(0))


def test_a_step_with_wrong_arguments_is_refused():
    explorer, step, state = wrong_step(lambda e: lambda s, d: (e.update(s, s.params, 0.0), 0))
    with pytest.raises(ValueError, match="the 4 replicas as their leading axis"):
        step(state, np.zeros((3, 2)))
    with pytest.raises(TypeError, match="plain Python loop"):
        jax.jit(step)(state, batches(0))
    with pytest.raises(RuntimeError, match="@explorer.jit"):
        explorer.update(state, state.params, 0.0)
    with pytest.raises(ValueError, match="use batches of 4, 8"):
        explorer.split(np.zeros((6, 2)))


def test_an_old_state_is_refused_where_something_is_decided():
    run = Run().train(range(3))
    old = run.state
    run.train([3])
    run.state = old
    with pytest.raises(RuntimeError, match="the state that the last one returned"):
        run.train([4])


def test_a_step_that_is_interrupted_while_the_host_waits_can_be_repeated(monkeypatch):
    run, whole = Run().train(range(5)), Run().train(range(8))

    def interrupted(state, decided):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.explorer, "_refuse_other_state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.train([5])
    run.train(range(5, 8))
    assert run.end() == whole.end()


def test_a_probe_that_gives_no_number_is_refused():
    run = Run(search=False, probe=lambda s, b: b[1])
    with pytest.raises(ValueError, match="give its mean"):
        run.train(range(6))


def test_a_run_that_is_too_short_for_its_search_is_warned_of():
    with pytest.warns(UserWarning, match="looks for the learning rate"):
        Explorer(optax.adam, 0.1, replicas=2, total_steps=100, search=True)

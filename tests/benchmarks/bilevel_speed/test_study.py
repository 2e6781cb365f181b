"""The NumPy peer of MAID: its derivatives, and that it is MAID."""

import numpy as np
import pytest
import torch

from benchmarks.bilevel.tasks import TASKS
from benchmarks.bilevel_speed import numpy_maid as peer
from benchmarks.bilevel_speed import problems
from benchmarks.bilevel_speed import study as speed
from hdet.bilevel import Rules
from hdet.bilevel.oracle import Oracle
from hdet.seeding import generator


@pytest.mark.parametrize("batched", [False, True], ids=["plain", "batched"])
@pytest.mark.parametrize("name", TASKS)
def test_derivatives_by_hand_are_autograd_s(name, batched):
    task = TASKS[name](0)
    oracle = Oracle(task.problem, task.theta0, task.x0, "test")
    source = generator(0, name)

    def noise(like):
        return torch.randn(like.shape, generator=source, dtype=like.dtype)

    theta, x = oracle.flat_theta(task.theta0), oracle.flat_x(task.x0)
    theta, x = theta + 0.1 * noise(theta), x + 0.1 * noise(x)
    v, q = noise(x), noise(x)
    levels = problems.levels_of(task, batched=batched)
    point = levels.at(x.numpy(), theta.numpy())
    last = slice(len(x) - 1, len(x))

    def same(ours, theirs):
        theirs = np.asarray(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * abs(theirs).max())

    values, gradient = oracle.lower(x, theta)
    same(point.values, values)
    same(point.gradient, gradient)
    image = oracle.hessian(x, theta)(v)
    same(point.product(v.numpy(), slice(None)), image)
    same(point.product(v.numpy()[last], last), image[last])
    same(point.mixed(q.numpy()), oracle.jacobian_transposed(x, theta, q))
    value, slope = levels.upper(x.numpy())
    same(value, oracle.upper(x)[0])
    same(slope, oracle.upper(x)[1])
    same(levels.upper_hessian(x.numpy())(v.numpy()), oracle.upper_hessian(x)(v))
    assert levels.mu(theta.numpy()) == pytest.approx(oracle.mu(theta))
    assert levels.smoothness == task.problem.upper_smoothness
    assert task.problem.upper_convex, "the peer's lower bound is that of convex g"


@pytest.mark.parametrize("batched", [False, True], ids=["scipy", "batched"])
@pytest.mark.parametrize(("name", "steps"), [("quadratic", 10), ("tv", 2)])
def test_the_peer_is_the_same_algorithm(name, steps, batched):
    task = TASKS[name](0)
    ours = speed.of_hdet(task, steps)
    theirs = speed.of_numpy(task, batched)(steps)
    assert len(theirs.values) == steps
    assert theirs.values == pytest.approx(ours.values, rel=1e-6)
    assert theirs.costs == pytest.approx(ours.costs, rel=0.05)


def test_another_algorithm_is_noticed():
    ours, theirs = (peer.Outcome(np.empty(0), values) for values in ([1.0, 0.5], [1.0, 0.51]))
    with pytest.raises(RuntimeError, match=r"tv, scipy: not the same algorithm"):
        speed.check("tv", "scipy", ours, theirs)


def test_the_peer_s_constants_are_those_of_rules():
    rules = Rules()
    assert (rules.shrink, rules.grow, rules.tighten) == (peer.SHRINK, peer.GROW, peer.TIGHTEN)
    assert (rules.share, rules.decrease) == (peer.SHARE, peer.DECREASE)
    assert (rules.trials, rules.refinements) == (peer.TRIALS, peer.REFINEMENTS)
    assert rules.memory == peer.MEMORY
    assert rules.barzilai_borwein

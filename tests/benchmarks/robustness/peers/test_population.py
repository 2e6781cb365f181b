"""Population-based training: the rule, the copies, and what it does on digits."""

import math

import pytest
import torch

from benchmarks.robustness.peers import population as module
from benchmarks.robustness.peers.population import Member, draw_factor, explore, pbt, quantiles
from benchmarks.robustness.problems import load, replica_batch
from hdet.seeding import generator
from tests.benchmarks.robustness.peers.common import problem

ADAMW, SGD = problem("adamw", 40, "digits"), problem("sgd", 40, "digits")


@pytest.fixture(scope="module")
def digits():
    return load(ADAMW)


@pytest.mark.parametrize(
    ("losses", "worst", "best"),
    [
        ([1.0, 4.0, 2.0, 3.0], [1], [0]),
        ([1.0, math.nan, 2.0, 3.0], [1], [0]),
        ([3.0, 1.0, 2.0, 5.0, 4.0], [3, 4], [2, 1]),
        ([2.0, 1.0, 3.0], [2], [1]),
        ([1.0], [], []),
    ],
)
def test_quantiles_by_hand(losses, worst, best):
    assert quantiles(losses) == (worst, best)


def test_explore_multiplies_or_draws_anew_at_ray_s_odds():
    draw = generator(0, "explore")
    drawn = [explore(10.0, draw) for _ in range(4000)]
    assert sum(f == 12.0 for f in drawn) / 4000 == pytest.approx(0.375, abs=0.03)
    assert sum(f == 8.0 for f in drawn) / 4000 == pytest.approx(0.375, abs=0.03)
    fresh = [f for f in drawn if f not in (8.0, 12.0)]
    assert all(1 / 3 <= f <= 3 for f in fresh)


def test_factors_are_log_uniform():
    draw = generator(0, "factor")
    logs = torch.tensor([math.log(draw_factor(draw), 3) for _ in range(4000)])
    assert logs.abs().max() <= 1
    assert logs.mean() == pytest.approx(0, abs=0.05)
    assert logs.std() == pytest.approx(3**-0.5, abs=0.02)


@pytest.mark.parametrize("asked", [ADAMW, SGD], ids=lambda p: p.optimizer)
def test_exploit_copies_weights_and_moments_and_shares_neither(asked, digits):
    def step(member, index, rank):
        batch = replica_batch(digits, 0, index, rank)
        rate = member.step(digits.loss(member.model, batch))
        member.advance()
        return rate

    ours, theirs = (Member(asked, digits, 0.01, 0, factor) for factor in (2.0, 0.5))
    for index in range(3):
        assert step(ours, index, 0) == pytest.approx(4 * step(theirs, index, 1))
    ours.exploit(theirs, 0.5)
    # The same batches, rates and moments: from now on the two are one.
    for index in range(3, 6):
        assert step(ours, index, 0) == pytest.approx(step(theirs, index, 0))
    pairs = list(zip(ours.model.parameters(), theirs.model.parameters(), strict=True))
    for a, b in pairs:
        torch.testing.assert_close(a, b)
        assert a.data_ptr() != b.data_ptr()
    before = [b.detach().clone() for _, b in pairs]
    moments = [t.clone() for s in theirs.optimizer.state.values() for t in s.values()]
    step(ours, 6, 0)
    assert all(torch.equal(b, old) for (_, b), old in zip(pairs, before, strict=True))
    kept = [t for s in theirs.optimizer.state.values() for t in s.values()]
    assert all(torch.equal(t, old) for t, old in zip(kept, moments, strict=True))


def test_each_member_sees_its_own_batches_and_exploits_after_each_twentieth_but_the_last(
    digits, monkeypatch
):
    seen, calls = [], []
    original = module._exploit_and_explore

    def read(task, seed, step, rank):
        seen.append((step, rank))
        return replica_batch(task, seed, step, rank)

    def exploit(members, draw):
        calls.append([len(member.losses) for member in members])
        original(members, draw)

    monkeypatch.setattr(module, "replica_batch", read)
    monkeypatch.setattr(module, "_exploit_and_explore", exploit)
    pbt(ADAMW, digits, 1e-2, 0)
    assert seen == [(step, rank) for step in range(40) for rank in range(4)]
    assert calls == [[2] * 4] * 19


def test_a_run_repeats_and_depends_on_its_seed(digits):
    first, again, other = (pbt(SGD, digits, 1e-1, seed) for seed in (0, 0, 1))
    assert (first.held_out, first.lrs) == (again.held_out, again.lrs)
    assert first.lrs != other.lrs


def test_a_member_that_diverges_is_replaced(digits, monkeypatch):
    factors = iter([1.0, 1e30, 1.0, 1.0])
    with monkeypatch.context() as patch:
        patch.setattr(module, "draw_factor", lambda draw: next(factors))
        patch.setattr(module, "RESAMPLE", 0.0)
        outcome = pbt(SGD, digits, 1e-1, 0)
    assert outcome.held_out < 2.0
    assert outcome.lrs[0] > 1e20
    assert max(outcome.lrs[5:]) < 10

"""The baselines: their rules by hand, and each run end to end on digits."""

import math
import sys

import pytest
import torch
from torch import nn

from benchmarks.robustness import baselines
from benchmarks.robustness.baselines import BASELINES, GreedyRule, ddp, hypergradient
from benchmarks.robustness.problems import (
    REPLICAS,
    Problem,
    held_out_loss,
    load,
    new_model,
    new_optimizer,
    one_cycle,
    replica_batch,
)
from benchmarks.tasks import Task

ADAMW = Problem("digits-adamw", "digits", "adamw", 30, 1e-2)
SGD = Problem("digits-sgd", "digits", "sgd", 30, 1e-1)
LR_FREE = ["prodigy", "d-adaptation"]


@pytest.fixture(scope="module")
def digits():
    return load(ADAMW)


class Quadratic(Task):
    """One half of the squared distance to a point, without noise."""

    name, title, low_lr, batch_size = "quadratic", "", 0.01, 1

    def network(self):
        # It maps 1 to its weights: three numbers, each to reach 1.
        return nn.Linear(1, 3, bias=False)

    def loss(self, model, batch):
        return 0.5 * (model(batch[0]) - 1).square().sum(dim=1).mean()

    def batch(self, seed, step, rank, world_size):
        return (torch.ones(1, 1),)

    def held_out(self):
        return [(torch.ones(1, 1),)]


@pytest.mark.parametrize("problem", [ADAMW, SGD], ids=lambda p: p.optimizer)
@pytest.mark.parametrize("name", BASELINES)
def test_each_method_learns_and_leaves_the_global_generator_alone(
    name, problem, digits, capsys
):
    before, state = held_out_loss(digits, new_model(digits, 0)), torch.get_rng_state()
    outcome = BASELINES[name](problem, digits, problem.centre, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr().out == ""
    # In 30 steps, the rates of LR-free methods have hardly grown from their 1e-6.
    slow = name in LR_FREE or (name == "schedule-free" and problem is SGD)
    assert outcome.held_out < before - (0.0 if slow else 0.2)
    assert outcome.steps == list(range(1, 31))
    assert len(outcome.lrs) == 30
    assert all(math.isfinite(rate) and rate > 0 for rate in outcome.lrs)
    assert outcome.seconds > 0


@pytest.mark.parametrize("name", [n for n in BASELINES if n not in LR_FREE])
def test_a_diverged_run_ends_in_nan_or_infinity(name):
    problem = Problem("q", "quadratic", "sgd", 30, 1e-1)
    assert not math.isfinite(BASELINES[name](problem, Quadratic(), 1e20, 0).held_out)


@pytest.mark.parametrize("name", LR_FREE)
@pytest.mark.parametrize("problem", [ADAMW, SGD], ids=lambda p: p.optimizer)
def test_lr_free_methods_end_the_same_from_each_start(name, problem, digits):
    ends = [BASELINES[name](problem, digits, lr, 0) for lr in (1e-4, 1.0)]
    assert ends[0].held_out == ends[1].held_out
    assert ends[0].lrs == ends[1].lrs


def test_a_run_is_read_about_fifty_times(digits):
    outcome = ddp(Problem("digits-sgd", "digits", "sgd", 105, 1e-1), digits, 1e-1, 0)
    assert outcome.steps == [*range(2, 105, 2), 105]
    assert max(outcome.lrs) == pytest.approx(1e-1, rel=1e-2)


@pytest.mark.parametrize("problem", [ADAMW, SGD], ids=lambda p: p.optimizer)
def test_the_global_batch_is_what_replicas_with_averaged_gradients_do(problem, digits):
    model = new_model(digits, 0)
    optimizer = new_optimizer(problem, [{"params": list(model.parameters())}], problem.centre)
    schedule = one_cycle(optimizer, problem, problem.centre)
    for step in range(problem.steps):
        optimizer.zero_grad()
        for rank in range(REPLICAS):  # gradients add up
            (digits.loss(model, replica_batch(digits, 0, step, rank)) / REPLICAS).backward()
        optimizer.step()
        if step < problem.steps - 1:
            schedule.step()
    expected = held_out_loss(digits, model)
    assert ddp(problem, digits, problem.centre, 0).held_out == pytest.approx(expected, rel=1e-4)


def test_plateau_cuts_to_a_tenth_after_four_stalled_readings():
    # 40 steps: each is a reading. At this rate the loss falls by less than 1e-4 of itself.
    problem = Problem("q", "quadratic", "sgd", 40, 1.0)
    lrs = baselines.reduce_on_plateau(problem, Quadratic(), 1e-6, 0).lrs
    assert lrs[:5] == [1e-6] * 5
    assert lrs[5:9] == pytest.approx([1e-7] * 4)


def test_greedy_rule_by_hand(monkeypatch):
    monkeypatch.setattr(baselines, "GREEDY_WINDOW", 2)
    rule = GreedyRule(0.9)
    rates = []
    # Means of two: 8, 7, 5, | 3, 3, 3, 3 | 3.5 3 2.5 1.5 0.5
    for loss in (8, 6, 4, 2, 4, 2, 4, 3, 3, 2, 1, 0):
        rule.step(loss)
        rates.append(rule.rate)
    raised = 0.9 / 0.9
    # Bests at the first three readings raise it. The fourth mean is a best, the next four are
    # none: the third of those lowers it. Two bests more are not enough, three are.
    expected = [0.9, 0.9, *[raised] * 4, *[0.9] * 5, raised]
    assert rates == pytest.approx(expected)


def test_greedy_stays_within_bounds_relative_to_its_start():
    for start in (1e-6, 10.0):
        rule = GreedyRule(start)
        for reading in range(2000):
            rule.step(-float(reading))
        assert rule.rate == start * 100
        for _ in range(2000):
            rule.step(0.0)
        assert rule.rate == start / 100


def test_hypergradient_raises_a_rate_that_is_too_small():
    problem = Problem("q", "quadratic", "sgd", 100, 1e-1)
    plain = ddp(problem, Quadratic(), 1e-5, 0)
    learned = hypergradient(problem, Quadratic(), 1e-5, 0, hyper_lr=0.1)
    factors = [a / b for a, b in zip(learned.lrs, plain.lrs, strict=True)]
    # Far from the optimum each step goes along the last: cosine 1, a factor of 1.1 a step.
    assert factors[4] == pytest.approx(1.1**9, rel=1e-3)
    assert max(factors) > 100
    assert learned.held_out < 0.1 * plain.held_out


def test_hypergradient_is_free_of_the_scale_of_the_loss():
    class Scaled(Quadratic):
        def loss(self, model, batch):
            return 1024 * super().loss(model, batch)

    problem = Problem("q", "quadratic", "sgd", 20, 1e-1)
    lrs = hypergradient(problem, Quadratic(), 1e-3, 0).lrs
    scaled = hypergradient(problem, Scaled(), 1e-3 / 1024, 0).lrs
    assert [rate * 1024 for rate in scaled] == pytest.approx(lrs)


@pytest.mark.parametrize("problem", [ADAMW, SGD], ids=lambda p: p.optimizer)
def test_hypergradient_with_zero_hyper_lr_is_ddp_bit_for_bit(problem, digits):
    null = hypergradient(problem, digits, problem.centre, 0, hyper_lr=0.0)
    plain = ddp(problem, digits, problem.centre, 0)
    assert (null.held_out, null.lrs) == (plain.held_out, plain.lrs)


def test_a_missing_package_is_named_with_its_remedy(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(ImportError, match="`prodigyopt`: pip install --editable benchmarks"):
        BASELINES["prodigy"](ADAMW, digits, 1e-2, 0)

"""What moves the rate by loss or gradient: the rules by hand, and against plain DDP."""

import pytest

from benchmarks.robustness.loop import plain
from benchmarks.robustness.peers import schedules
from benchmarks.robustness.peers.schedules import (
    GreedyRule,
    hypergradient,
    reduce_on_plateau,
)
from benchmarks.robustness.problems import load
from tests.benchmarks.robustness.peers.common import Quadratic, problem


@pytest.fixture(scope="module")
def regression():
    return load(problem("sgd", 30))


def test_plateau_cuts_to_a_tenth_after_four_stalled_readings():
    # 40 steps: each is a reading of the loss, and three of four are one of the rate. At this
    # rate the loss falls by less than 1e-4 of itself.
    lrs = reduce_on_plateau(problem("sgd", 40, "quadratic"), Quadratic(), 1e-6, 0).lrs
    assert lrs[:4] == [1e-6] * 4  # to step 5
    assert lrs[4:7] == pytest.approx([1e-7] * 3)  # to step 9


def test_greedy_rule_by_hand(monkeypatch):
    monkeypatch.setattr(schedules, "GREEDY_WINDOW", 2)
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
    asked = problem("sgd", 100, "quadratic")
    fixed = plain(asked, Quadratic(), 1e-5, 0)
    learned = hypergradient(asked, Quadratic(), 1e-5, 0, hyper_lr=0.1)
    factors = [a / b for a, b in zip(learned.lrs, fixed.lrs, strict=True)]
    # Far from the optimum each step goes along the last: cosine 1, a factor of 1.1 a step.
    assert factors[4] == pytest.approx(1.1 ** (learned.steps[4] - 1), rel=1e-3)
    assert max(factors) > 100
    assert learned.held_out < 0.1 * fixed.held_out


def test_hypergradient_is_free_of_the_scale_of_the_loss():
    class Scaled(Quadratic):
        def loss(self, model, batch):
            return 1024 * super().loss(model, batch)

    asked = problem("sgd", 20, "quadratic")
    lrs = hypergradient(asked, Quadratic(), 1e-3, 0).lrs
    scaled = hypergradient(asked, Scaled(), 1e-3 / 1024, 0).lrs
    assert [rate * 1024 for rate in scaled] == pytest.approx(lrs)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_hypergradient_with_zero_hyper_lr_is_plain_ddp_bit_for_bit(optimizer, regression):
    asked = problem(optimizer, 30)
    null = hypergradient(asked, regression, asked.centre, 0, hyper_lr=0.0)
    fixed = plain(asked, regression, asked.centre, 0)
    assert (null.held_out, null.lrs) == (fixed.held_out, fixed.lrs)


def test_hypergradient_from_below_begins_at_its_part_of_the_schedule(regression):
    asked = problem("sgd", 30)
    below = hypergradient(asked, regression, asked.centre, 0, hyper_lr=0.0, first=0.25)
    fixed = plain(asked, regression, asked.centre, 0)
    assert below.lrs == pytest.approx([0.25 * rate for rate in fixed.lrs])

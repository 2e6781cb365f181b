"""AdaLRS: the rule by hand, and what going back restores."""

import math

import pytest

from benchmarks.robustness.loop import plain
from benchmarks.robustness.peers import velocity as module
from benchmarks.robustness.peers.velocity import AdaLrsRule, adalrs, velocity
from benchmarks.robustness.problems import load
from tests.benchmarks.robustness.peers.common import Quadratic, problem


def test_velocity_is_the_falling_slope_of_a_least_squares_line():
    assert velocity([5.0, 3.0, 1.0]) == pytest.approx(2.0)
    assert velocity([0.0, 3.0, 0.0, 3.0]) == pytest.approx(-0.6)
    assert math.isnan(velocity([1.0, math.inf, 1.0]))


def test_the_rule_by_hand():
    rule = AdaLrsRule()
    fast, slow, slower = [9.0, 6.0, 3.0], [3.0, 2.0, 1.0], [1.0, 0.9, 0.8]
    assert (rule.read(slow), rule.factor) == ("go on", 1.0)
    assert (rule.read(fast), rule.factor) == ("go on", 1.0)  # it has not slowed
    assert (rule.read(slow), rule.factor) == ("save", 3.0)
    assert rule.trying
    assert (rule.read(slow), rule.factor) == ("go on", 3.0)  # no worse: kept
    assert (rule.read(slower), rule.factor) == ("save", 3 * 3 * 0.99)
    assert (rule.read([1.0, 2.0, 3.0]), rule.factor) == ("back", 3 / (2 * 0.99**2))
    assert not rule.trying
    assert rule.read([1.0, 0.9, 0.8]) == "go on"  # as before the trial
    assert rule.read([1.0, 0.95, 0.9]) == "save"
    assert (rule.read([1.0, math.nan, 0.8]), rule.trying) == ("back", False)


def test_without_a_search_it_is_plain_ddp_bit_for_bit(monkeypatch):
    monkeypatch.setattr(module, "SEARCHED", 0.0)
    asked = problem("adamw", 30)
    task = load(asked)
    null, expected = adalrs(asked, task, 1e-2, 0), plain(asked, task, 1e-2, 0)
    assert (null.held_out, null.lrs) == (expected.held_out, expected.lrs)


def test_a_raised_rate_that_fails_is_taken_back_with_its_steps(monkeypatch):
    """Plain SGD on a quadratic: each step multiplies the distance by 1 - rate."""
    monkeypatch.setattr(module, "WINDOWS", 10)
    monkeypatch.setattr("benchmarks.robustness.problems.MOMENTUM", 0.0)
    monkeypatch.setattr(module.problems, "make_schedule", _constant)
    asked = problem("sgd", 30, "quadratic")
    outcome = adalrs(asked, Quadratic(), 0.9, 0)
    # Windows of three. The second is slower than the first: 2.7 for three steps, which
    # multiply the distance by -1.7 each; then back to where it was, at 0.9 / 1.98.
    assert outcome.lrs[:12] == pytest.approx([0.9] * 6 + [2.7] * 3 + [0.9 / 1.98] * 3)
    losses = [loss for _, loss in outcome.curve]
    assert losses[8] == pytest.approx(losses[5] * 1.7**6, rel=0.02)
    assert losses[9] == pytest.approx(losses[5] * (1 - 0.9 / 1.98) ** 2, rel=1e-4)


def _constant(optimizer, problem, lr):
    from torch.optim.lr_scheduler import ConstantLR

    return ConstantLR(optimizer, factor=1.0)

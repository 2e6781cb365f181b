"""The controls: a geometric mean, and three runs at the price of one."""

import math
from dataclasses import replace

import pytest

from benchmarks.robustness.loop import plain
from benchmarks.robustness.peers.controls import budget_sweep, calibrated
from benchmarks.robustness.problems import load
from tests.benchmarks.robustness.peers.common import problem


@pytest.fixture(scope="module")
def regression():
    return load(problem("sgd", 30))


def test_a_calibrated_run_is_a_plain_one_at_that_rate(regression):
    asked = problem("sgd", 30)
    control, expected = (
        calibrated(asked, regression, 0.02, 0),
        plain(asked, regression, 0.02, 0),
    )
    assert (control.held_out, control.lrs) == (expected.held_out, expected.lrs)


def test_a_budget_sweep_is_the_best_of_three_runs_of_a_third_of_the_steps(regression):
    third = problem("sgd", 20)
    runs = [plain(third, regression, lr, 0) for lr in (0.002, 0.02, 0.2)]
    # A rest of the steps is left over.
    outcome = budget_sweep(replace(third, steps=61), regression, 0.02, 0)
    assert outcome.held_out == min(run.held_out for run in runs)
    assert outcome.lrs == [rate for run in runs for rate in run.lrs]
    assert outcome.steps == list(range(1, 61))
    assert [step for step, _ in outcome.curve] == outcome.steps
    assert outcome.forwards == 0.0
    # The best of these three is not the last: the curve ends with the last.
    assert outcome.curve[-1][1] == runs[-1].held_out


def test_a_budget_sweep_passes_over_rates_that_diverge(regression):
    outcome = budget_sweep(problem("sgd", 60), regression, 10.0, 0)
    runs = [plain(problem("sgd", 20), regression, lr, 0).held_out for lr in (1.0, 10.0, 100.0)]
    assert not math.isfinite(runs[2])
    assert outcome.held_out == min(loss for loss in runs if math.isfinite(loss))

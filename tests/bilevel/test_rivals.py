"""Fixed accuracy stalls where it is too loose; HOAG's refusals are not the end of it."""

import math

import pytest
import torch

from hdet.bilevel import Problem, Status, fixed_accuracy, hoag, maid
from hdet.bilevel.rivals import SCHEDULES

from .problems import denoising, quadratic, start


def test_too_loose_an_accuracy_stalls_and_maid_does_not():
    made, (theta, x0) = quadratic(), start()
    stuck = fixed_accuracy(made.problem, theta, x0, accuracy=1.0, max_steps=50)
    assert stuck.status is Status.LINE_SEARCH
    moving = maid(made.problem, theta, x0, accuracy=1.0, max_steps=50, certify=False)
    assert float(made.f(moving.theta)) < float(made.f(stuck.theta))


def test_the_accuracy_is_fixed():
    made, (theta, x0) = quadratic(), start()
    found = fixed_accuracy(made.problem, theta, x0, accuracy=1e-5, max_steps=20)
    assert {step.accuracy for step in found.history} == {1e-5}
    assert len(found.history) == 20


@pytest.mark.parametrize(
    ("schedule", "third"), [("exponential", 0.81), ("quadratic", 1 / 9), ("cubic", 1 / 27)]
)
def test_the_schedules_are_those_of_the_paper(schedule, third):
    problem, theta, noisy = denoising()
    found = hoag(problem, theta, noisy, schedule=schedule, accuracy=0.1, max_steps=4)
    assert found.history[0].accuracy == pytest.approx(0.1)
    assert found.history[2].accuracy == pytest.approx(0.1 * third)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_hoag_goes_down_on_signals(schedule):
    problem, theta, noisy = denoising()
    found = hoag(problem, theta, noisy, schedule=schedule, step=0.1, max_steps=30)
    assert found.value < found.history[0].value


def test_a_refused_step_is_not_the_end():
    # The first step is far too long; halved, it must be taken in the end.
    problem = Problem(
        lambda x: x.square().sum() / 2,
        lambda x, theta: (x - theta).square().sum() / 2,
        mu=1.0,
    )
    theta, x0 = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    found = hoag(problem, theta, x0, step=100.0, accuracy=1e-3, max_steps=40)
    assert 5 <= found.failed_searches < 20
    assert float(found.theta.norm()) < 0.1


def test_hoag_resumes_bit_for_bit():
    problem, theta, noisy = denoising()
    half = hoag(problem, theta, noisy, step=0.1, max_steps=6)
    whole = hoag(problem, theta, noisy, step=0.1, max_steps=12)
    again = hoag(problem, theta, noisy, step=0.1, max_steps=12, state=half.state)
    assert torch.equal(again.theta, whole.theta)
    assert again.counts.cost == whole.counts.cost + 1


def test_a_refused_step_keeps_the_value_and_its_bound():
    problem, theta, noisy = denoising()
    result = hoag(problem, theta, noisy, step=10.0, max_steps=12)
    assert result.failed_searches > 0
    assert all(step.bound >= step.value for step in result.history)
    assert all(step.bound < 2 * step.value + 1 for step in result.history)


def test_a_step_to_where_h_overflows_is_refused():
    problem = Problem(
        lambda x: (x - 3).square().sum(),
        lambda x, theta: (x - theta.exp()).square().sum() / 2,
        mu=1.0,
    )
    theta, x0 = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    result = hoag(problem, theta, x0, step=1e4, max_steps=60)
    assert result.failed_searches > 0
    assert float(result.theta) == pytest.approx(math.log(3), abs=1e-2)


def test_an_unknown_schedule_is_refused():
    made, (theta, x0) = quadratic(), start()
    with pytest.raises(ValueError, match="schedule='linear'.*exponential, quadratic, cubic"):
        hoag(made.problem, theta, x0, schedule="linear")

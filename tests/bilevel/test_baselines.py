"""Fixed accuracy stalls where it is too loose; HOAG's refusals are not the end of it."""

import math

import pytest
import torch

from hdet.bilevel import Problem, Status, fixed_accuracy, hoag, hypergradient, maid
from hdet.bilevel.baselines import SCHEDULES

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
    with pytest.raises(
        ValueError, match='schedule=\'linear\'.*"exponential", "quadratic" or "cubic"'
    ):
        hoag(made.problem, theta, x0, schedule="linear")


def ridge(loss=1.0, unit=1.0, logs=-3.0):
    """Return the documentation's first example with losses and x in other units.

    mu is the ridge alone, a thousandth of h's curvature.
    """
    source = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    x_train, x_val, true = normal(40, 20), normal(200, 20), torch.zeros(20).double()
    true[:5] = 1.0
    y_train, y_val = x_train @ true + normal(40), x_val @ true + normal(200)
    problem = Problem(
        lambda w: loss * (x_val @ w / unit - y_val).square().mean() / 2,
        lambda w, theta: (
            loss * (x_train @ w / unit - y_train).square().mean() / 2
            + loss * (theta.exp() * (w / unit).square()).sum() / 2
        ),
        ridge=1e-3 * loss / unit**2,
        upper_convex=True,
    )
    return problem, torch.full((20,), logs).double(), torch.zeros(20).double()


@pytest.mark.parametrize("method", [hoag, fixed_accuracy])
@pytest.mark.parametrize(("loss", "unit"), [(2.0**20, 1.0), (2.0**-20, 1.0), (1.0, 2.0**10)])
def test_without_an_accuracy_units_change_nothing(method, loss, unit):
    # By powers of two, which are exact.
    plain = method(*ridge(), max_steps=4)
    other = method(*ridge(loss, unit), max_steps=4)
    assert torch.equal(other.theta, plain.theta)
    assert other.value == loss * plain.value
    assert other.history[0].accuracy == unit * plain.history[0].accuracy
    assert other.counts == plain.counts


@pytest.mark.parametrize(("method", "part"), [(hoag, 1e-3), (fixed_accuracy, 1e-5)])
def test_without_an_accuracy_it_is_a_part_of_x_however_small_mu_is(method, part):
    problem, theta, x0 = ridge()
    length = float(hypergradient(problem, theta, x0, accuracy=1e-9).x.norm())
    first = method(problem, theta, x0, max_steps=1).history[0].accuracy
    assert first == pytest.approx(part * length, rel=0.1)


def test_a_fixed_accuracy_that_nobody_chose_comes_to_where_maid_does():
    least = maid(*ridge(), max_steps=20).value
    assert fixed_accuracy(*ridge(), max_steps=20).value < 1.05 * least
    assert fixed_accuracy(*ridge(), max_steps=1).value > 1.2 * least


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_hoag_without_an_accuracy_goes_down_from_afar(schedule):
    problem, theta, x0 = ridge(logs=3.0)
    first = hypergradient(problem, theta, x0, accuracy=1e-6).upper
    found = hoag(problem, theta, x0, schedule=schedule, max_steps=15)
    assert found.value < 0.5 * first
